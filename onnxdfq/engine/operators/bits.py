"""Operators on the bits of integers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import outside_dtype, torch_dtype, wrapped


@operator("BitShift", since=11)
def bit_shift(x: Tensor, by: Tensor, *, direction: Literal["LEFT", "RIGHT"], input_types: tuple[int, ...]) -> Tensor:
    """Shifting right keeps the sign of signed integers."""
    return wrapped(x << by, input_types[0]) if direction == "LEFT" else x >> by


@operator("BitwiseAnd", since=18)
def bitwise_and(a: Tensor, b: Tensor) -> Tensor:
    return a & b


@operator("BitwiseOr", since=18)
def bitwise_or(a: Tensor, b: Tensor) -> Tensor:
    return a | b


@operator("BitwiseXor", since=18)
def bitwise_xor(a: Tensor, b: Tensor) -> Tensor:
    return a ^ b


@operator("BitwiseNot", since=18)
def bitwise_not(x: Tensor, *, input_types: tuple[int, ...]) -> Tensor:
    return wrapped(~x, input_types[0])


@operator("BitCast", since=26)
def bit_cast(x: Tensor, *, to: int, input_types: tuple[int, ...]) -> Tensor:
    """The same bits read as another type of the same width."""
    return x.to(outside_dtype(input_types[0])).view(outside_dtype(to)).to(torch_dtype(to))
