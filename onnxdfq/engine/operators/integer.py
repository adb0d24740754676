"""Operators that compute in integers: the operator-oriented quantized format.

Like the outputs of QuantizeLinear, quantized tensors and int32 sums travel as floats that hold whole numbers, in
double precision where they are summed, which is exact below 2**53. So gradients pass, straight through the rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from onnxdfq.engine.operators.convolution import conv
from onnxdfq.engine.operators.quantize import Round, integer_range
from onnxdfq.engine.operators.registry import operator


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(x: Tensor, *, outputs: int) -> tuple[Tensor, ...]:
    """uint8 over the range of x, widened to hold zero: the whole numbers, their scale and their zero point."""
    low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = Round.apply(-low / scale).clamp(0, 255)
    return (Round.apply(x / scale) + zero_point).clamp(0, 255), scale, zero_point


@operator("MatMulInteger", since=10)
def matmul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    """(a [..., M, K] - its zero points, one or [M]) @ (b [..., K, N] - its zero points, one or [N])."""
    return _centred(a, a_zero_point, -2) @ _centred(b, b_zero_point, -1)


@operator("ConvInteger", since=10)
def conv_integer(
    x: Tensor,
    weight: Tensor,
    x_zero_point: Tensor | None = None,
    weight_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Conv of numbers from which the zero points, of the weight one or one per filter, were subtracted."""
    geometry: dict[str, Any] = {
        "auto_pad": auto_pad,
        "dilations": dilations,
        "group": group,
        "pads": pads,
        "strides": strides,
    }
    return conv(_centred(x, x_zero_point, 1), _centred(weight, weight_zero_point, 0), **geometry)


@operator("QLinearMatMul", since=10)
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    *,
    input_types: tuple[int, ...],
) -> Tensor:
    """MatMulInteger, scaled and rounded to the type of ``y_zero_point``."""
    total = matmul_integer(a, b, a_zero_point, b_zero_point)
    scale = _along(a_scale, total, -2) * _along(b_scale, total, -1) / y_scale
    return _requantized(total, scale, y_zero_point, input_types[7])


@operator("QLinearConv", since=10)
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
    input_types: tuple[int, ...],
) -> Tensor:
    """ConvInteger plus an int32 bias [M] in steps of x_scale * weight_scale, rounded to the type of y_zero_point."""
    geometry: dict[str, Any] = {
        "auto_pad": auto_pad,
        "dilations": dilations,
        "group": group,
        "pads": pads,
        "strides": strides,
    }
    total = conv_integer(x, weight, x_zero_point, weight_zero_point, **geometry)
    if bias is not None:
        total = total + _along(bias, total, 1).double()
    return _requantized(total, _along(x_scale * weight_scale / y_scale, total, 1), y_zero_point, input_types[7])


def _centred(x: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    wide = x.double()
    return wide if zero_point is None else wide - _along(zero_point, x, axis).double()


def _along(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """One number, or numbers along one axis, in a shape that broadcasts against x."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if parameter.ndim > 1:  # rows of a batch of matrices have their own already
        return parameter
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def _requantized(total: Tensor, scale: Tensor, zero_point: Tensor, element_type: int) -> Tensor:
    low, high = integer_range(element_type or TensorProto.UINT8)
    # In single precision, as the kernels of runtimes scale.
    steps = Round.apply(total.float() * scale.float()) + zero_point.float()
    return steps.clamp(low, high)
