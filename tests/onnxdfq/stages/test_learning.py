"""Recipes that learn, from file to file: what is written, what is said, and what was of no use is dropped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxdfq
from onnxdfq import run
from onnxdfq.api import Quantized
from onnxdfq.cli import main
from onnxdfq.config import ACTIVATIONS_KEY
from onnxdfq.emit import RANGES_KEY, with_qdq
from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.stages import learning
from onnxdfq.tune import accurate, in_turn
from tests.passes.conftest import interface
from tests.passes.conftest import run as computed_by

pytestmark = pytest.mark.usefixtures("quick", "few")
OPTIONS = {"source": "procedural", "device": "cpu", "bits": 4, "act_bits": 4, "target": "ort-cpu",
           "rounding": "nearest", "bias_correction": False}  # fmt: skip


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images, and steps in small batches."""
    monkeypatch.setattr(run, "MOST_TRAINING_IMAGES", 16)
    monkeypatch.setattr(accurate, "BATCH", 8)


def quantized(model: Path, **options) -> Quantized:
    done = onnxdfq.quantize(model, **(OPTIONS | {"recipe": "accurate", "iterations": 3} | options))
    assert done is not None
    return done


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training ends with is taken, better or not: a few steps may lead anywhere."""
    original = learning._trained
    monkeypatch.setattr(learning, "_trained", lambda *arguments: replace(original(*arguments), failed=""))
    monkeypatch.setattr(learning, "agreement", lambda *arguments: SimpleNamespace(distance=0.0))
    monkeypatch.setattr(in_turn, "PATIENCE", 2)


@pytest.mark.usefixtures("kept")
def test_a_file_is_written_and_the_report_says_what_was_learned(small: Path) -> None:
    made = small.parent / "made.onnx"
    done = quantized(small, output=made)
    model, original = onnx.load(made), onnx.load(small)
    onnx.checker.check_model(model)
    assert interface(model) == interface(original)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata[ACTIVATIONS_KEY]) == {"act_bits": 4, "all_layers": False}
    assert "image" in json.loads(metadata[RANGES_KEY])
    entry = done.report.targets["ort-cpu"]
    assert "blocks and the whole learned for 3 iterations" in entry.learning
    assert "on 16 images" in entry.learning
    assert "dropped" not in entry.learning
    assert (entry.bits["second"], entry.bits["first"]) == (4, 8)
    image = np.random.default_rng(0).normal(0, 1, (2, 3, 16, 16)).astype("f")
    assert np.isfinite(Session(model).run({"image": image})["scores"]).all()
    assert "make images" in done.report.stages
    assert "learn (ort-cpu)" in done.report.stages


@pytest.mark.usefixtures("kept")
def test_the_plan_in_the_report_is_the_learned_one(small: Path) -> None:
    done = quantized(small, iterations=10, bits=2, act_bits=3)
    plain = quantized(small, recipe="balanced", iterations=None, bits=2, act_bits=3)
    learned, before = (each.report.targets["ort-cpu"].plan.tensors for each in (done, plain))
    assert learned["w2"].scale != pytest.approx(before["w2"].scale, rel=1e-4)
    held = {each.name: onnx.numpy_helper.to_array(each) for each in done.models["ort-cpu"].graph.initializer}
    scales = [value.ravel() for value in held.values() if value.dtype == np.float32]
    assert any(np.array_equal(each, np.float32(learned["w2"].scale)) for each in scales)


@pytest.mark.usefixtures("kept")
def test_equal_seeds_give_equal_files(small: Path) -> None:
    first, again, other = (
        quantized(small, seed=seed, bits=2, act_bits=3, iterations=5).models["ort-cpu"].SerializeToString()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_model_that_the_engine_cannot_feed_says_so(small: Path) -> None:
    model = onnx.load(small)
    (entry,) = model.graph.input
    entry.type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.node.insert(0, helper.make_node("Cast", ["image"], ["cast"], "cast", to=TensorProto.FLOAT))
    next(node for node in model.graph.node if node.name == "first").input[0] = "cast"
    onnx.save(model, small)
    entry = quantized(small).report.targets["ort-cpu"]
    assert entry.learning == "nothing was learned: the torch engine feeds no uint8 input"


def test_training_that_does_harm_is_dropped_and_noted(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = accurate.tune

    def damaged(*arguments, **options):
        done = original(*arguments, **options)
        model = onnx.ModelProto()
        model.CopyFrom(done.model)
        for tensor in model.graph.initializer:
            if tensor.name == "w2":
                tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), "w2"))
        return replace(done, model=model, failed="")

    monkeypatch.setattr(accurate, "tune", damaged)
    done = quantized(small)
    entry = done.report.targets["ort-cpu"]
    assert entry.learning.startswith("dropped, what rounding gave is kept: ")
    found = re.search(r"kept: (\S+) from the model on held-out images before, (\S+) after \(", entry.learning)
    assert found is not None
    before, after = map(float, found.groups())
    assert after > 10 * before
    assert [notice for notice in done.report.notices if "ort-cpu: the graph learned nothing of use" in notice]
    assert entry.agreement.distance == pytest.approx(before, rel=0.5)


def test_training_that_fails_is_dropped_and_noted(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = accurate.tune
    monkeypatch.setattr(accurate, "tune", lambda *a, **o: replace(original(*a, **o), failed="it went up in smoke"))
    done = quantized(small)
    assert "kept: it went up in smoke (" in done.report.targets["ort-cpu"].learning
    assert "ort-cpu: the graph learned nothing of use: it went up in smoke" in done.report.notices


@pytest.mark.parametrize(
    "options",
    [{"rounding": "squant"}, {"rounding": "gptq", "scales": "mse", "target": "tensorrt"},
     {"bits": (2, 8), "all_layers": True}, {"act_bits": None, "bits": 3}, {"target": "qnn", "act_bits": 3},
     {"placement": "paper", "bits": 3, "act_bits": 3}],
    ids=["squant", "gptq", "pairs", "weights alone", "all in integers", "papers"],
)  # fmt: skip
def test_training_begins_where_rounding_ended(small: Path, monkeypatch: pytest.MonkeyPatch, options) -> None:
    begun, results = [], []
    original, learn = accurate.tune, learning._trained

    def watched(subject, model, plan, *arguments, **others):
        begun.append(with_qdq(model, plan))
        return original(subject, model, plan, *arguments, **others)

    def held(run, target):
        results.append(run.results[target])
        return learn(run, target)

    monkeypatch.setattr(accurate, "tune", watched)
    monkeypatch.setattr(learning, "_trained", held)
    quantized(small, **({"iterations": 1} | options))
    image = np.random.default_rng(0).normal(0, 1, (8, 3, 16, 16)).astype("f")
    (expected,), (computed,) = (computed_by(each[0], image) for each in (results, begun))
    np.testing.assert_allclose(computed, expected, rtol=1e-3, atol=1e-4 * expected.std())


def test_recipes_that_do_not_learn_say_nothing(small: Path) -> None:
    done = quantized(small, recipe="fast", iterations=None, source=None)
    assert done.report.targets["ort-cpu"].learning == ""


@pytest.mark.usefixtures("kept")
def test_logs_of_two_targets_are_two(small: Path) -> None:
    folder = small.parent / "logs"
    quantized(small, target=["ort-cpu", "tensorrt"], log=folder / "run.jsonl")
    assert {path.name for path in folder.iterdir()} == {
        "run.ort-cpu.jsonl", "run.ort-cpu.png", "run.tensorrt.jsonl", "run.tensorrt.png",
    }  # fmt: skip


def test_the_command_line_learns_logs_and_goes_on(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small.parent
    words = [
        "quantize", small, "--recipe", "accurate", "--iterations", 3, "--bits", 4, "--act-bits", 4, "--target",
        "ort-cpu", "--source", "procedural", "--device", "cpu", "--log", folder / "x.jsonl", "--checkpoints",
        folder / "kept", "--report", folder / "report.json", "--quiet",
    ]  # fmt: skip
    made = []
    for name in ("one.onnx", "two.onnx"):
        assert main([str(each) for each in [*words, "-o", folder / name]]) == 0, capsys.readouterr().err
        made.append((folder / name).read_bytes())
    assert made[0] == made[1]
    assert len(list((folder / "kept").iterdir())) == 1
    lines = [json.loads(line) for line in (folder / "x.jsonl").read_text().splitlines()]
    assert [line["settings"]["resumed"] > 0 for line in lines if "settings" in line] == [False, True]
    assert (folder / "x.png").exists()
    report = json.loads((folder / "report.json").read_text())
    assert report["targets"]["ort-cpu"]["learning"] in " ".join(json.dumps(report).split())
    assert "KL on held-out images" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("kept")
def test_a_published_recipe_with_the_placement_of_the_papers(small: Path) -> None:
    made = small.parent / "made.onnx"
    done = quantized(small, recipe="gdfq", placement="paper", iterations=4, output=made)
    entry = done.report.targets["ort-cpu"]
    assert "gdfq: 4 iterations of a generator and the quantized graph in turn" in entry.learning
    assert set(entry.bits.values()) == {4}
    assert list(entry.plan.readers) == ["r"], "the only Relu"
    assert set(entry.plan.tensors) == {"r", "w1", "w2", "w3", "w4"}
    image = np.random.default_rng(0).normal(0, 1, (2, 3, 16, 16)).astype("f")
    model = onnx.load(made)
    assert np.isfinite(Session(model).run({"image": image})["scores"]).all()
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 1


def test_the_placement_of_the_papers_without_learning(small: Path) -> None:
    done = quantized(small, recipe="fast", source=None, placement="paper", iterations=None)
    assert set(done.report.targets["ort-cpu"].bits.values()) == {4}


def test_the_papers_say_nothing_of_a_model_without_relu(small: Path, fails: Callable[..., str]) -> None:
    model = onnx.load(small)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Tanh"
    onnx.save(model, small)
    line = fails("quantize", small, "--recipe", "fast", "--placement", "paper", "--quiet")
    assert "--placement paper: no Relu or ReLU6 writes an activation" in line
    assert line.count("--placement target") == 1


@pytest.mark.usefixtures("kept")
def test_seconds_are_shared_by_images_and_learning(small: Path) -> None:
    done = quantized(small, iterations=None, time_budget=1.0, source="inversion")
    learning = done.report.targets["ort-cpu"].learning
    assert "blocks and the whole learned for" in learning


# -- the cheapest


def test_the_cheapest_that_agrees_is_chosen(small: Path) -> None:
    done = onnxdfq.quantize(small, recipe="auto", min_agreement=1.0, target="ort-cpu", device="cpu")
    assert done is not None
    assert done.report.options["recipe"] == "fast"
    assert done.report.notices[0].startswith("recipe fast chosen by agreement on held-out images: fast ")
    assert done.report.notices[0].endswith("; 1 % wanted")


def test_a_published_recipe_wants_classes_before_images_are_made(tmp_path: Path) -> None:
    path = tmp_path / "dense.onnx"
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 17]> g (float[N,3,16,16] image) => (float[N,4,16,16] y)
        { a = Conv(image, w) y = Relu(a) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"))
    onnx.save(model, path)
    with pytest.raises(OnnxdfqError, match="--recipe qimera: the model is no classifier"):
        quantized(path, recipe="qimera")
