"""From a float file to a bundle, as a user makes one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxdfq
from onnxdfq.cli import main
from onnxdfq.dynamic import build, router
from onnxdfq.dynamic.bundle import read_manifest
from onnxdfq.dynamic.cascade import Cascade
from onnxdfq.dynamic.costs import bit_operations
from tests.onnxdfq.conftest import saved
from tests.passes.conftest import run

DIGITS = Path(__file__).parents[3] / "models" / "digits_mobilenet.onnx"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxdfq.run.MOST_TRAINING_IMAGES", 192)
    monkeypatch.setattr(router, "STEPS", 20)
    monkeypatch.setattr(router, "WARM_UP", 10)


def quantized(model: Path, folder: Path, *more: object) -> int:
    arguments = ["quantize", model, "--recipe", "dynadfq", "--source", "procedural", "--quiet", "-o", folder, *more]
    return main([str(each) for each in arguments])


def test_a_bundle_of_the_shipped_model(tmp_path: Path, labelled: Path, capsys) -> None:
    """Levels in order, one costs a quarter of the other, and the report says what images really come to."""
    folder = tmp_path / "digits.dynamic"
    assert quantized(DIGITS, folder, "--bits", "8/4", "--all-layers", "--eval", labelled) == 0
    shown = capsys.readouterr().out
    assert "by lot for the same cost" in shown
    assert "labelled images" in shown
    manifest = read_manifest(folder)
    assert [level.name for level in manifest.levels] == ["4", "8"]
    cheap, dear = (level.bitops for level in manifest.levels)
    assert 0.2 < cheap / dear < 0.4  # the image keeps 8 bits
    report = json.loads((folder / "report.json").read_text())
    assert report["decision"] == manifest.decision
    assert abs(sum(report["labelled"]["shares"]) - 1) < 1e-9
    assert report["labelled"]["right"] > 90
    assert report["levels"][0]["quantized"]["plan"]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    answers = tmp_path / "answers.npz"
    assert main(["run", str(folder), str(labelled), "-o", str(answers), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["accuracy"] == pytest.approx(report["labelled"]["right"])
    assert summary["bitops"] == pytest.approx(report["labelled"]["bitops"])
    found = np.load(answers)
    assert len(found["level"]) == summary["images"]


def test_a_float_level_is_the_model(tmp_path: Path, small: Path, quick) -> None:
    folder = tmp_path / "b"
    assert quantized(small, folder, "--bits", "8/fp32") == 0
    manifest = read_manifest(folder)
    assert [level.name for level in manifest.levels] == ["8", "fp32"]
    x = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)
    last = onnx.load(folder / manifest.levels[-1].file)
    np.testing.assert_allclose(run(last, x)[0], run(onnx.load(small), x)[0], atol=1e-5)
    report = json.loads((folder / "report.json").read_text())
    assert report["unit"] == "ms"


def test_same_seed_same_levels(tmp_path: Path, small: Path, quick) -> None:
    for name in "ab":
        assert quantized(small, tmp_path / name, "--bits", "4/8") == 0
    first, second = (read_manifest(tmp_path / name) for name in "ab")
    assert first.files == second.files
    assert (first.asked, first.thresholds) == (second.asked, second.thresholds)


def test_python_gets_the_same(tmp_path: Path, small: Path, quick) -> None:
    assert quantized(small, tmp_path / "b", "--bits", "4/8", "--mean-cost", "0.5") == 0
    manifest = read_manifest(tmp_path / "b")
    done = onnxdfq.quantize_dynamic(small, (4, 8), source="procedural", mean_cost=0.5)
    assert (done.manifest.asked, done.manifest.thresholds) == (manifest.asked, manifest.thresholds)
    assert done.single is not None
    assert done.single.SerializeToString(deterministic=True) == (tmp_path / "b" / "dynamic.onnx").read_bytes()


def test_a_router_that_wins_is_in_the_bundle_and_decides(tmp_path: Path, small: Path, quick, monkeypatch) -> None:
    monkeypatch.setattr(build, "verdict", lambda cascade, router, lacking: (router is not None, "router: it won"))
    monkeypatch.setattr(build, "fit", lambda *arguments: Cascade((0, 1), (0.5,)))
    folder = tmp_path / "b"
    assert quantized(small, folder, "--bits", "4/8") == 0
    manifest = read_manifest(folder)
    assert manifest.decision == "router"
    assert manifest.router_bitops > 0
    x = np.random.default_rng(0).normal(size=(7, 3, 16, 16)).astype(np.float32)
    answered = onnxdfq.DynamicSession(folder).run(x)
    single = onnx.load(folder / "dynamic.onnx")
    levels = [run(single, x[k : k + 1])[-1][0] for k in range(len(x))]
    assert levels == answered.levels.tolist()


def test_names_that_the_single_file_needs_may_be_taken(tmp_path: Path, quick) -> None:
    text = """g (float[N, 3, 8, 8] level) => (float[N, 4] y, float[N, 4] level_2) {
        f = Flatten(level)
        y = MatMul(f, w)
        level_2 = Relu(y)
    }"""
    path = saved(text, {"w": (192, 4)}, tmp_path / "g.onnx")
    assert quantized(path, tmp_path / "b", "--bits", "8/fp32") == 0
    outputs = [entry.name for entry in onnx.load(tmp_path / "b" / "dynamic.onnx").graph.output]
    assert outputs == ["y", "level_2", "level_3"]


def test_outputs_without_a_row_for_each_image_are_refused(tmp_path: Path, fails) -> None:
    text = "g (float[N, 3, 8, 8] x) => (float[N, 4] y, float m) { f = Flatten(x) y = MatMul(f, w) " \
        "m = ReduceMean<keepdims = 0>(y) }"  # fmt: skip
    path = saved(text, {"w": (192, 4)}, tmp_path / "g.onnx")
    assert "output m has no row for each image" in fails("quantize", path, "--recipe", "dynadfq", "--bits", "4/8",
                                                         "--source", "procedural", "--quiet")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bits", "4"], "two to four that differ"),
        (["--bits", "4/8", "--act-bits", "4"], "--act-bits is for one model"),
        (["--bits", "4/8", "--mean-cost", "0.5", "--min-agreement", "98"], "exclude each other"),
        (["--bits", "4/8", "--mean-cost", "1.5"], "is no share"),
        (["--bits", "4/8", "--min-agreement", "101"], "is no percentage"),
        (["--bits", "4/8", "--target", "ort-cpu", "--target", "tensorrt"], "a bundle for one target"),
        (["--bits", "4/8", "--log", "x.jsonl"], "--log is for one model"),
        (["--bits", "4/8", "--avg-bits", "4/5"], "are both levels"),
    ],
)
def test_mistakes(small: Path, tmp_path: Path, fails, arguments: list[str], said: str) -> None:
    assert said in fails("quantize", small, "--recipe", "dynadfq", "-o", tmp_path / "b", *arguments)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bits", "4/6/8"], "give --recipe dynadfq"),
        (["--bits", "8/fp32"], "give --recipe dynadfq"),
        (["--avg-bits", "4/5"], "give --recipe dynadfq"),
        (["--mean-cost", "0.5"], "give --recipe dynadfq"),
        (["--bits", "4/int"], "is not a number of bits"),
    ],
)
def test_levels_need_the_recipe(small: Path, fails, arguments: list[str], said: str) -> None:
    assert said in fails("quantize", small, *arguments)


def test_models_without_classes_are_refused(tmp_path: Path, fails) -> None:
    path = saved("g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) { y = Conv(x, w) }", {"w": (4, 3, 1, 1)},
                 tmp_path / "g.onnx")  # fmt: skip
    assert "is for classifiers" in fails("quantize", path, "--recipe", "dynadfq", "--bits", "4/8",
                                         "--source", "procedural", "--quiet")  # fmt: skip


def test_bit_operations_are_products_of_bits(small: Path) -> None:
    model = onnx.load(small)
    products = 16 * 16 * 16 * 27 + 14 * 14 * 16 * 144 + 14 * 14 * 16 * 16 + 16 * 4
    shapes = {"image": (1, 3, 16, 16)}
    assert bit_operations(model, shapes, None) == products * 32 * 32
    assert bit_operations(model, shapes, None, 16) == products * 16 * 16


def test_a_bundle_can_be_run_only_with_its_images(tmp_path: Path, fails) -> None:
    assert "is no bundle" in fails("run", tmp_path, tmp_path)
