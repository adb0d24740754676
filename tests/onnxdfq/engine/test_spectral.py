"""DFT, STFT and windows against ONNX Runtime, whose transforms are less precise than torch's, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from onnxdfq.engine.lower import lower

random = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("length", [None, 5, 12])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("inverse", [0, 1])
def test_dft(inverse: int, parts: int, length: int | None, node_agrees: Callable[..., None]) -> None:
    size = None if length is None else np.array(length)
    options = {"inverse": inverse, "tolerance": 1e-4}
    node_agrees("DFT", f(2, 8, 3, parts), size, opset=17, axis=1, **options)
    node_agrees("DFT", f(2, 8, 3, parts), size, np.array(-3), opset=20, **options)


@pytest.mark.parametrize("length", [None, 6, 12])
def test_onesided_dft(length: int | None, node_agrees: Callable[..., None]) -> None:
    size = None if length is None else np.array(length)
    node_agrees("DFT", f(2, 8, 3, 1), size, np.array(1), opset=20, onesided=1, tolerance=1e-4)


@pytest.mark.parametrize("length", [7, 8])
def test_onesided_inverse_restores_the_signal(length: int) -> None:
    body = (
        f"a = DFT <onesided = 1> (x) n = Constant <value_int = {length}> () y = DFT <onesided = 1, inverse = 1> (a, n)"
    )
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]> graph (float[2, {length}, 1] x) => (float y) {{ {body} }}"""
    )
    x = torch.from_numpy(f(2, length, 1))
    torch.testing.assert_close(lower(model)(x)[0], x)


@pytest.mark.parametrize("given", ["window", "length", "both"])
@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(onesided: int, given: str, node_agrees: Callable[..., None]) -> None:
    window = None if given == "length" else f(8)
    length = None if given == "window" else np.array(8)
    node_agrees("STFT", f(2, 30, 1), np.array(3), window, length, opset=17, onesided=onesided, tolerance=1e-4)


@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
def test_window(op: str, periodic: int, node_agrees: Callable[..., None]) -> None:
    node_agrees(op, np.array(10), opset=17, periodic=periodic)


@pytest.mark.parametrize(
    "body",
    [
        "y = DFT (x)",
        "y = DFT <onesided = 1> (x)",
        "a = DFT <onesided = 1> (x) y = DFT <onesided = 1, inverse = 1> (a)",
        "y = STFT (x, step, window)",
    ],
)
def test_gradient_agrees_with_finite_differences(body: str) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]> graph (double[2, 8, 1] x) => (double y)
        < int64 step = {{2}}, double[4] window = {{0.1, 0.7, 0.8, 0.2}} > {{ {body} }}"""
    )
    gm = lower(model)
    assert not list(gm.parameters())
    assert torch.autograd.gradcheck(gm, torch.from_numpy(random.standard_normal((2, 8, 1))).requires_grad_())
