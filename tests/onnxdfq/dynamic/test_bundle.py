"""What is in the folder, and what is said where something in it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxdfq.dynamic import bundle as module
from onnxdfq.dynamic.bundle import MANIFEST, ROUTER, SINGLE, WEIGHTS, check_place, read_manifest
from onnxdfq.dynamic.cascade import Cascade
from onnxdfq.dynamic.session import DynamicSession
from onnxdfq.errors import OnnxdfqError
from tests.onnxdfq.dynamic.conftest import images, level
from tests.passes.conftest import run

CASCADE = Cascade((0, 1), (0.5,))


@pytest.fixture
def two(bundle) -> Path:
    return bundle([level(0.3), level(0)], CASCADE)


def test_levels_are_ordinary_models_that_share_a_file_of_weights(bundle) -> None:
    folder = bundle([level(0), level(0)], CASCADE)
    assert {path.name for path in folder.iterdir()} == {
        MANIFEST, "level_0.onnx", "level_1.onnx", WEIGHTS, SINGLE, "report.json",
    }  # fmt: skip
    x = images(3)
    for name in ("level_0.onnx", "level_1.onnx"):
        onnx.checker.check_model(str(folder / name))
        np.testing.assert_array_equal(run(onnx.load(folder / name), x)[0], run(level(0), x)[0])
    assert (folder / WEIGHTS).stat().st_size == 16 * 27 * 4  # both have the same kernel


def test_a_router_is_a_file_of_its_own(bundle) -> None:
    folder = bundle([level(0.3), level(0)], None, (0.0, 0.0))
    assert (folder / ROUTER).is_file()
    assert read_manifest(folder).router_bitops == 0.5


def test_the_manifest_reads_back_as_it_was_written(two: Path) -> None:
    found = read_manifest(two)
    assert (found.asked, found.thresholds, found.outputs) == ((0, 1), (0.5,), ("y", "features"))
    assert found.input.shape == (1, 3, 6, 6)
    assert set(found.files) == {"level_0.onnx", "level_1.onnx", WEIGHTS, SINGLE}


def says(folder: Path) -> str:
    with pytest.raises(OnnxdfqError) as raised:
        DynamicSession(folder)
    return str(raised.value)


@pytest.mark.parametrize("part", ["level_1.onnx", WEIGHTS, SINGLE])
def test_a_missing_or_altered_part_is_named(two: Path, part: str) -> None:
    content = (two / part).read_bytes()
    (two / part).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"{part} is not what was written" in says(two)
    (two / part).unlink()
    assert f"lacks {part}" in says(two)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    assert "is no bundle" in says(tmp_path)
    assert "is no bundle" in says(tmp_path / "nowhere")


def test_a_damaged_manifest_is_refused(two: Path) -> None:
    path = two / MANIFEST
    data = json.loads(path.read_text())
    for broken, said in (
        ("{", "is damaged"),
        (json.dumps({**data, "format": "onnxdfq dynamic 9"}), "onnxdfq dynamic 9"),
        (json.dumps({**data, "color": 1}), "is damaged"),
        (json.dumps({name: value for name, value in data.items() if name != "input"}), "is damaged"),
        (json.dumps({**data, "files": {}}), "names level_0.onnx without its hash"),
        ("[]", "is damaged"),
    ):
        path.write_text(broken)
        assert said in says(two)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (np.zeros((0, 3, 6, 6), np.float32), "the batch is empty"),
        (np.zeros((2, 3, 6, 7), np.float32), "the model reads Nx3x6x6"),
        (np.zeros((3, 6, 6), np.float32), "the model reads Nx3x6x6"),
        (np.zeros((2, 3, 6, 6)), "images are float64"),
        ([[1.0]], "images are list"),
    ],
)
def test_batches_that_do_not_fit_are_refused(two: Path, batch, said: str) -> None:
    session = DynamicSession(two)
    with pytest.raises(OnnxdfqError) as raised:
        session.run(batch)
    assert said in str(raised.value)


def test_a_bundle_takes_the_place_of_a_bundle_and_of_nothing_else(two: Path, tmp_path: Path) -> None:
    check_place(two)
    check_place(tmp_path / "new")
    other = tmp_path / "other"
    other.mkdir()
    check_place(other)
    (other / "precious.txt").write_text("x")
    for place in (other, other / "precious.txt"):
        with pytest.raises(OnnxdfqError):
            check_place(place)


def test_what_was_there_stays_where_writing_fails(bundle, monkeypatch) -> None:
    folder = bundle([level(0.3), level(0)], CASCADE)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path: Path) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_hash", full)
    with pytest.raises(OnnxdfqError, match="No space left"):
        bundle([level(0), level(0)], CASCADE)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "change",
    [
        {"levels": []},
        {"asked": [0, 7]},
        {"asked": [1, 0]},
        {"thresholds": []},
        {"thresholds": ["x"]},
        {"decision": "coin"},
        {"decision": "router"},
        {"outputs": []},
        {"files": ["level_0.onnx"]},
    ],
)
def test_a_manifest_that_no_bundle_was_written_with_is_refused(two: Path, change: dict) -> None:
    path = two / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert "is damaged" in says(two)


def test_another_folder_with_a_manifest_is_no_bundle(two: Path, tmp_path: Path) -> None:
    other = tmp_path / "app"
    other.mkdir()
    (other / MANIFEST).write_text('{"name": "an app"}')
    with pytest.raises(OnnxdfqError, match="is no part of a bundle"):
        check_place(other)
    (two / "mine.txt").write_text("x")
    with pytest.raises(OnnxdfqError, match=r"mine\.txt, which is no part"):
        check_place(two)


def test_what_was_there_comes_back_where_the_last_move_fails(bundle, monkeypatch) -> None:
    folder = bundle([level(0.3), level(0)], CASCADE)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    replace = module.os.replace

    def failing(source, goal) -> None:
        if Path(goal) == folder and Path(source).name == folder.name:
            raise OSError(5, "Input/output error")
        replace(source, goal)

    monkeypatch.setattr(module.os, "replace", failing)
    with pytest.raises(OnnxdfqError, match="Input/output error"):
        bundle([level(0), level(0)], CASCADE)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
