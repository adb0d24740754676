"""States come back as they were, or not at all."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from onnxdfq.errors import OnnxdfqError
from onnxdfq.tune.checkpoint import Checkpoints, key_of

STATE = {"done": 3, "failed": "", "random": torch.Generator().get_state(), "parts": {"a": torch.arange(3.0)}}


def test_a_state_comes_back(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "new", "key")
    assert kept.load() is None
    kept.save(STATE)
    found = Checkpoints(tmp_path / "new", "key").load()
    assert found is not None
    assert (found["done"], found["failed"]) == (3, "")
    torch.testing.assert_close(found["parts"]["a"], torch.arange(3.0))
    assert torch.equal(found["random"], STATE["random"])
    kept.save({"done": 4})
    assert kept.load() == {"done": 4}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["key.pt"]


def test_another_key_is_another_training(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").save(STATE)
    assert Checkpoints(tmp_path, "other").load() is None


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: bytes | None) -> None:
    kept = Checkpoints(tmp_path, "key")
    kept.save(STATE)
    file = tmp_path / "key.pt"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    assert kept.load() is None


def test_without_a_folder_nothing_is_kept() -> None:
    Checkpoints(None, "key").save(STATE)
    assert Checkpoints(None, "key").load() is None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OnnxdfqError, match="can't be written"):
        Checkpoints(tmp_path / "file", "key").save(STATE)


def test_the_key_hangs_on_settings_and_models() -> None:
    models = [onnx.ModelProto(producer_name=name) for name in "ab"]
    keys = [
        key_of({"seed": 0, "path": Path("x")}, models[0]),
        key_of({"seed": 1, "path": Path("x")}, models[0]),
        key_of({"seed": 0, "path": Path("x")}, models[1]),
        key_of({"seed": 0, "path": Path("x")}, *models),
    ]
    assert len(set(keys)) == 4
    assert keys[0] == key_of({"path": Path("x"), "seed": 0}, models[0])
