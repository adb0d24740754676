"""The TensorRT builder, as far as it goes without TensorRT: what it asks for, and what it says when that is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import build_trt_engine
import pytest


class Recorder:
    """Stands for TensorRT: answers as it is told and remembers what it was asked."""

    __version__ = "10.0"
    WARNING = "warning"

    def __init__(self, shape=(-1, 3, 8, 8), errors=(), engine=b"engine") -> None:
        self.said: dict[str, object] = {}
        entry = SimpleNamespace(name="image", shape=shape)
        network = SimpleNamespace(num_inputs=1, get_input=lambda number: entry)
        profile = SimpleNamespace(set_shape=lambda *given: self.said.update(shapes=given))
        config = SimpleNamespace(
            set_memory_pool_limit=lambda *given: None,
            add_optimization_profile=lambda given: self.said.update(profiles=1),
        )

        def create_network(flags):
            self.said["flags"] = flags
            return network

        self.Logger = lambda level: None
        self.Logger.WARNING = "warning"
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.Builder = lambda logger: SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda *given: engine,
        )
        self.OnnxParser = lambda network, logger: SimpleNamespace(
            parse_from_file=lambda path: not errors, num_errors=len(errors), get_error=errors.__getitem__
        )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"onnx")
    return path


def test_an_engine_is_written_for_a_strongly_typed_network(model: Path, monkeypatch, capsys) -> None:
    trt = Recorder()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    assert build_trt_engine.main([str(model), "--batch", "1,8,32"]) == 0
    assert trt.said["flags"] == 2
    assert trt.said["shapes"] == ("image", (1, 3, 8, 8), (8, 3, 8, 8), (32, 3, 8, 8))
    assert model.with_suffix(".engine").read_bytes() == b"engine"
    assert "TensorRT 10.0" in capsys.readouterr().out


def test_a_fixed_shape_needs_no_profile(model: Path, monkeypatch) -> None:
    trt = Recorder(shape=(4, 3, 8, 8))
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    assert build_trt_engine.main([str(model)]) == 0
    assert "profiles" not in trt.said


def test_a_batch_for_a_fixed_shape_is_a_mistake(model: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Recorder(shape=(4, 3, 8, 8)))
    assert build_trt_engine.main([str(model), "--batch", "1,2,4"]) == 1
    assert "has no free batch. leave --batch out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trt", "said"),
    [
        (Recorder(errors=("bad axis", "bad type")), "does not read MODEL: bad axis; bad type. `onnxdfq check"),
        (Recorder(engine=None), "builds no engine from MODEL"),
        (Recorder(shape=(1, 3, -1, -1)), "input image has free axes (1, 3, -1, -1). fix all but the batch"),
        (
            SimpleNamespace(__version__="8.5", NetworkDefinitionCreationFlag=object),
            "TensorRT 8.5 has no strongly typed",
        ),
        (None, "TensorRT's Python package is missing. pip install tensorrt, or use trtexec"),
    ],
    ids=["refused", "no engine", "free axes", "old", "no package"],
)
def test_what_goes_wrong_is_one_line_and_no_file(model: Path, monkeypatch, capsys, trt, said: str) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    assert build_trt_engine.main([str(model)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said.replace("MODEL", str(model)) in printed.err
    assert printed.err.count("\n") == 1
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]
