"""QuantizeLinear and DequantizeLinear: exact in value, straight-through in gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from onnxdfq.engine.lower import lower
from onnxdfq.errors import OnnxdfqError

TYPES = ("INT8", "UINT8", "INT4", "UINT4", "INT16", "UINT16")
RANGES = {
    "INT8": (-128, 127),
    "UINT8": (0, 255),
    "INT4": (-8, 7),
    "UINT4": (0, 15),
    "INT2": (-2, 1),
    "UINT2": (0, 3),
}
SCALE = np.array([0.05, 0.1, 0.2], np.float32)


def pair(
    kind: str | None,
    scale: np.ndarray,
    zero: list[int],
    shape: tuple[int, ...],
    opset: int = 21,
    **attributes: Any,
) -> onnx.ModelProto:
    """x -> Q -> q (an output too, where it is a byte) -> DQ -> y."""
    names = ["scale"] if kind is None else ["scale", "zero"]
    initializers = [numpy_helper.from_array(scale, "scale")]
    code = onnx.TensorProto.UINT8 if kind is None else onnx.TensorProto.DataType.Value(kind)
    if kind is not None:
        initializers.append(helper.make_tensor("zero", code, list(scale.shape), zero))
    outputs = [helper.make_tensor_value_info("y", 1, None)]
    if kind in ("INT8", "UINT8", None):
        outputs.append(helper.make_tensor_value_info("q", code, None))
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", *names], ["q"], name="quantize", **attributes),
            helper.make_node("DequantizeLinear", ["q", *names], ["y"], name="dequantize", **attributes),
        ],
        "pair",
        [helper.make_tensor_value_info("x", 1, list(shape))],
        outputs,
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def halves(scale: float, count: int = 4096) -> np.ndarray:
    """Values on and around the ties of rounding, and beyond the range of every type."""
    rng = np.random.default_rng(0)
    ties = (np.arange(-300, 300) + 0.5).astype(np.float32) * np.float32(scale)
    return np.concatenate([ties, rng.standard_normal(count).astype(np.float32) * 40 * np.float32(scale)])


@pytest.mark.parametrize("kind", [None, *TYPES])
@pytest.mark.parametrize("scale", [0.1, 0.0123, 1.0])
def test_per_tensor_is_identical_to_onnxruntime(agrees: Any, kind: str | None, scale: float) -> None:
    x = halves(scale)
    zero = 0 if kind is None or kind.startswith("I") else 7
    agrees(pair(kind, np.array(scale, np.float32), [zero], x.shape), [x], tolerance=0)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_axis_is_identical_to_onnxruntime(agrees: Any, axis: int, opset: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 3)).astype(np.float32) * 10
    agrees(pair("INT8", SCALE, [0, 3, -5], x.shape, opset, axis=axis), [x], tolerance=0)


def test_blocks_are_identical_to_onnxruntime(agrees: Any) -> None:
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    scale = np.abs(np.random.default_rng(1).standard_normal((4, 3))).astype(np.float32) + 0.1
    agrees(pair("INT4", scale, [0] * 12, x.shape, axis=1, block_size=2), [x], tolerance=0)


@pytest.mark.parametrize("kind", RANGES)
def test_every_type_saturates_at_its_bounds(kind: str) -> None:
    low, high = RANGES[kind]
    gm = lower(pair(kind, np.array(1, np.float32), [0], (2,), opset=25))
    assert gm(torch.tensor([-1000.0, 1000.0]))[0].tolist() == [low, high]


def test_output_dtype_stands_in_for_the_zero_point() -> None:
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=onnx.TensorProto.INT8)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT8, [2])],
        [numpy_helper.from_array(np.array(0.5, np.float32), "s")],
    )
    (y,) = lower(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))(torch.tensor([-3.0, 100.0]))
    assert y.dtype == torch.int8
    assert y.tolist() == [-6, 127]


def test_a_type_without_a_range_is_an_error() -> None:
    gm = lower(pair("INT32", np.array(1, np.float32), [0], (1,)))
    with pytest.raises(OnnxdfqError, match="quantizing to INT32"):
        gm(torch.zeros(1))


def test_gradients_are_straight_through() -> None:
    gm = lower(pair("INT8", np.array(0.1, np.float32), [0], (5,)))
    x = torch.tensor([-20.0, -0.52, 0.0, 3.337, 20.0], requires_grad=True)
    gm(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    scaled = x.detach() / 0.1
    expected = torch.where(scaled.abs() > 128, scaled.clamp(-128, 127), scaled.round() - scaled).sum()
    torch.testing.assert_close(gm.get_parameter("scale").grad, expected)


def test_scales_per_channel_learn() -> None:
    gm = lower(pair("INT4", SCALE, [0, 0, 0], (4, 3), axis=1))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    gm(x)[0].square().sum().backward()
    gradient = gm.get_parameter("scale").grad
    assert gradient is not None
    assert gradient.shape == (3,)
    assert bool(gradient.all())
    assert "zero" not in dict(gm.named_parameters())
    assert gm.meta["initializers"]["zero"] == "zero"


def test_half_precision_activations_round_as_single_ones() -> None:
    gm = lower(pair("INT8", np.array(0.1, np.float32), [0], (600,)))
    x = torch.linspace(-14, 14, 600).bfloat16()
    assert torch.equal(gm(x)[0].float(), gm(x.float())[0])


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT4", "UINT4", "INT32"])
def test_frozen_weights_are_identical_to_onnxruntime(agrees: Any, kind: str) -> None:
    """An integer initializer that is only dequantized, with a scale per channel, as models ship."""
    low, high = (-100000, 100000) if kind == "INT32" else RANGES[kind]
    values = np.random.default_rng(0).integers(low, high, 12).tolist()
    code = onnx.TensorProto.DataType.Value(kind)
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "scale"], ["weight"], axis=1),
            helper.make_node("MatMul", ["x", "weight"], ["y"]),
        ],
        "frozen",
        [helper.make_tensor_value_info("x", 1, [2, 4])],
        [helper.make_tensor_value_info("y", 1, [2, 3]), helper.make_tensor_value_info("weight", 1, [4, 3])],
        [helper.make_tensor("w", code, [4, 3], values), numpy_helper.from_array(SCALE, "scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    agrees(model, [np.ones((2, 4), np.float32)], tolerance=1e-6)


def test_microsoft_domain_is_the_same_operator() -> None:
    model = pair("INT16", np.array(0.01, np.float32), [0], (3,), opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for node in model.graph.node:
        node.domain = "com.microsoft"
    (y,) = lower(model)(torch.tensor([-1000.0, 0.016, 5.0]))
    torch.testing.assert_close(y, torch.tensor([-327.68, 0.02, 5.0]))
