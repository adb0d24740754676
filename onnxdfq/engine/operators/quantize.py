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

from onnxdfq.engine.operators.low_floats import LOW_FLOATS, largest, to_low_float
from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import INTEGERS, torch_dtype
from onnxdfq.errors import OnnxdfqError


class Round(torch.autograd.Function):
    """Round half to even; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class RoundToFloat(torch.autograd.Function):
    """Round to a float of eight or four bits, and back to the type of x; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, element_type: int, saturate: bool) -> Tensor:
        return to_low_float(x, element_type, saturate=saturate).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


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
    """Whole numbers in the zero point's range, or small floats; scale is one number, [C] along ``axis``, or blocks."""
    target = _target(zero_point, input_types, output_dtype)
    # Half precision activations (autocast) would round to the wrong side: compute in the scale's type.
    wide = x.to(torch.promote_types(x.dtype, scale.dtype))
    steps = wide / _align(scale, x, axis, block_size)
    if target in LOW_FLOATS:  # their zero point is zero, by the specification
        if saturate:
            steps = torch.clamp(steps, -largest(target), largest(target))
        return RoundToFloat.apply(steps, target, bool(saturate))
    low, high = integer_range(target)
    steps = Round.apply(steps)
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
    steps = x.to(scale.dtype)
    if zero_point is not None:
        steps = steps - _align(zero_point, x, axis, block_size).to(steps.dtype)
    y = steps * _align(scale, x, axis, block_size)
    return y.to(torch_dtype(output_dtype)) if output_dtype else y


def integer_range(element_type: int) -> tuple[int, int]:
    """The smallest and the largest number of an integer type that ONNX quantizes to."""
    bits, signed = INTEGERS.get(element_type, (0, False))
    if not 2 <= bits <= 16:
        name = TensorProto.DataType.Name(element_type)
        raise OnnxdfqError(
            f"quantizing to {name} is not supported", "integers of 2, 4, 8 and 16 bits are, and floats of 4 and 8"
        )
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _target(zero_point: Tensor | None, input_types: tuple[int, ...], output_dtype: int) -> int:
    """The quantized type: what the node says, else the type of the zero point, else uint8."""
    if output_dtype or zero_point is None:
        return output_dtype or TensorProto.UINT8
    return input_types[2] or (TensorProto.INT8 if zero_point.dtype == torch.int8 else TensorProto.UINT8)


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
