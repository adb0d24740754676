"""A small classifier, labelled digits, and the command line as tests use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from digits import held_out
from onnxdfq import run
from onnxdfq.cli import main
from onnxdfq.stages import prepare

SMALL = """small (float[N, 3, 16, 16] image) => (float[N, 4] scores) {
    [first] a = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)
    [relu] r = Relu(a)
    [second] c = Conv(r, w2, b2)
    [third] d = Conv(c, w3)
    [pool] p = GlobalAveragePool(d)
    [flatten] f = Flatten(p)
    [last] scores = Gemm<transB = 1>(f, w4, b4)
}"""
SHAPES = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (16, 16, 1, 1), "w4": (4, 16),
          "b4": (4,)}  # fmt: skip


def saved(text: str, shapes: dict[str, tuple[int, ...]], path: Path, opset: int = 17) -> Path:
    """A model with random weights in a file."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A classifier of four layers, two of them in the middle."""
    return saved(SMALL, SHAPES, tmp_path / "small.onnx")


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits that the shipped model has never seen, as --eval takes them."""
    images, labels = held_out()
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images, and no onnxsim, which runs in a process of its own: for tests that are about something else."""
    monkeypatch.setattr(run, "MOST_IMAGES", 8)
    monkeypatch.setattr(prepare, "simplified", lambda model, run: (model, ""))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that is mistaken: it ends with 1 and prints one line, which is returned."""

    def failing(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(each) for each in arguments]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = [line for line in printed.err.splitlines() if " s, " not in line]  # stages that had finished before
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("onnxdfq: ")
        assert "bug" not in lines[0]
        return lines[0]

    return failing
