"""Operators that compute in integers, against ONNX Runtime: equal to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxdfq.engine.lower import lower

random = np.random.default_rng(0)


def codes(kind: str, *shape: int) -> np.ndarray:
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max + 1, shape).astype(kind)


def of(kind: str, *values: int) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, kind)


def f32(*values: float) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.float32)


MATMUL = (codes("uint8", 2, 3, 5), codes("uint8", 5, 4))
IMAGE = codes("uint8", 2, 4, 7, 6)
WEIGHTS = (codes("int8", 6, 2, 3, 3), codes("uint8", 6) * f32(1e-4), np.zeros(6, np.int8))
BIAS = codes("int16", 6).astype(np.int32)


@pytest.mark.parametrize(
    ("op", "inputs", "opset", "attributes"),
    [
        ("MatMulInteger", (*MATMUL, of("uint8", 7), of("uint8", 130)), 10, {}),
        ("MatMulInteger", (MATMUL[0], codes("int8", 5, 4), of("uint8", 7), codes("int8", 4)), 10, {}),
        ("MatMulInteger", MATMUL, 10, {}),
        (
            "ConvInteger",
            (IMAGE, codes("uint8", 6, 4, 3, 3), of("uint8", 9), of("uint8", 200)),
            10,
            {"pads": [1, 0, 2, 1]},
        ),
        ("ConvInteger", (IMAGE, codes("uint8", 4, 2, 3, 3)), 10, {"group": 2, "strides": [2, 1]}),
        (
            "QLinearConv",
            (IMAGE, f32(0.02), of("uint8", 120), *WEIGHTS, f32(0.05), of("uint8", 128), BIAS),
            10,
            {"group": 2, "auto_pad": "SAME_UPPER"},
        ),
        (
            "QLinearMatMul",
            (MATMUL[0], f32(0.01), of("uint8", 99), MATMUL[1], f32(0.02), of("uint8", 100), f32(0.1), of("uint8", 5)),
            10,
            {},
        ),
        ("DynamicQuantizeLinear", (random.standard_normal((3, 40)).astype(np.float32),), 11, {}),
        ("DynamicQuantizeLinear", (np.zeros((3, 4), np.float32),), 11, {}),
        ("DynamicQuantizeLinear", (random.random((3, 4)).astype(np.float32) + 1,), 11, {}),
    ],
)
def test_equals_onnxruntime(node_agrees: Any, op: str, inputs: Any, opset: int, attributes: Any) -> None:
    outputs = 3 if op == "DynamicQuantizeLinear" else 1
    node_agrees(op, *inputs, opset=opset, outputs=outputs, tolerance=1e-7, **attributes)


def test_gradients_pass_through_integer_arithmetic() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        graph (float[1, 8] x) => (float[1, 3] y) <float[8, 3] w> {
          xq, xs, xz = DynamicQuantizeLinear (x)
          wq, ws, wz = DynamicQuantizeLinear (w)
          total = MatMulInteger (xq, wq, xz, wz)
          float_total = Cast <to = 1> (total)
          scale = Mul (xs, ws)
          y = Mul (float_total, scale)
        }"""
    )
    w = random.standard_normal((8, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    gm = lower(model)
    x = torch.from_numpy(random.standard_normal((1, 8)).astype(np.float32)).requires_grad_()
    (y,) = gm(x)
    torch.testing.assert_close(y, x @ torch.from_numpy(w), atol=0.1, rtol=0.1)
    y.sum().backward()
    inside = (x != x.max()) & (x != x.min())  # the two ends also move the scale
    torch.testing.assert_close(x.grad[inside], torch.from_numpy(w).sum(1)[inside[0]], atol=0.05, rtol=0.05)
