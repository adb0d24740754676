"""QuantizeLinear and DequantizeLinear with straight-through gradients.

ONNX makes integers of a quantized tensor; here it stays a float tensor that holds whole numbers, as torch has
no gradients for integers. Rounding passes gradients on as they are, saturation stops them, and everything
else is left to autograd, so that a scale that is a parameter learns through
DequantizeLinear(QuantizeLinear(x)):

    d y / d scale = round(x / scale) - x / scale    where x is in range, else the bound of the integer type
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import torch_dtype
from onnxdfq.errors import OnnxdfqError

_RANGES: dict[int, tuple[int, int]] = {
    TensorProto.UNDEFINED: (0, 255),  # ONNX's default is uint8
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT2: (0, 3),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
}


class Round(torch.autograd.Function):
    """Round half to even; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


@operator("QuantizeLinear", since=10)
@operator("QuantizeLinear", since=1, domain="com.microsoft")
def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    input_types: tuple[int, ...],
) -> Tensor:
    """Whole numbers in the zero point's range; scale is one number, [C] along ``axis``, or blocks."""
    low, high = _range(zero_point, input_types, output_dtype)
    # Half precision activations (autocast) would round to the wrong side: compute in the scale's type.
    wide = x.to(torch.promote_types(x.dtype, scale.dtype))
    steps = Round.apply(wide / _align(scale, x, axis, block_size))
    if zero_point is not None:
        steps = steps + _align(zero_point, x, axis, block_size).to(steps.dtype)
    return torch.clamp(steps, low, high)


@operator("DequantizeLinear", since=10)
@operator("DequantizeLinear", since=1, domain="com.microsoft")
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """(x - zero_point) * scale, for x in whole numbers, be they held as floats or as integers."""
    steps = x if x.is_floating_point() else x.to(scale.dtype)
    if zero_point is not None:
        steps = steps - _align(zero_point, x, axis, block_size).to(steps.dtype)
    y = steps * _align(scale, x, axis, block_size)
    return y.to(torch_dtype(output_dtype)) if output_dtype else y


def _range(zero_point: Tensor | None, input_types: tuple[int, ...], output_dtype: int) -> tuple[int, int]:
    """The bounds of the quantized type: what the node says, else the type of the zero point, else uint8."""
    declared = output_dtype or (input_types[2] if zero_point is not None else TensorProto.UNDEFINED)
    if declared == TensorProto.UNDEFINED and zero_point is not None:
        limits = torch.iinfo(zero_point.dtype)  # made by the graph: its type was not declared, the tensor tells
        return int(limits.min), int(limits.max)
    if declared not in _RANGES:
        name = TensorProto.DataType.Name(declared)
        raise OnnxdfqError(f"QuantizeLinear to {name} is not supported", "integers of 2, 4, 8 and 16 bits are")
    return _RANGES[declared]


def _align(parameter: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """A scale or zero point in a shape that broadcasts against x."""
    if block_size:
        repeated = parameter.repeat_interleave(block_size, axis)
        return repeated.narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[axis] = parameter.shape[0]
    return parameter.reshape(shape)
