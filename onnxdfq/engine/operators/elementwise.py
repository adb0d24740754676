"""Arithmetic, comparison and logic, element by element with broadcasting."""

from __future__ import annotations

from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from onnxdfq.engine.operators.low_floats import LOW_FLOATS, to_low_float
from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import INTEGERS, torch_dtype, wrapped


@operator("Add", since=7)
def add(a: Tensor, b: Tensor) -> Tensor:
    return a + b


@operator("Sub", since=7)
def sub(a: Tensor, b: Tensor) -> Tensor:
    return a - b


@operator("Mul", since=7)
def mul(a: Tensor, b: Tensor) -> Tensor:
    return a * b


@operator("Div", since=7)
def div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Mod", since=10)
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@operator("Pow", since=7, host=("exponent",))
def power(x: Tensor, exponent: Tensor | float | list[float]) -> Tensor:
    if isinstance(exponent, list):
        wide = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else None
        exponent = torch.tensor(exponent, dtype=wide, device=x.device)
    return torch.pow(x, exponent).to(x.dtype)


# torch has each of these under the same name in lower case.
@operator("Abs", since=6)
@operator("Acos", since=7)
@operator("Acosh", since=9)
@operator("Asin", since=7)
@operator("Asinh", since=9)
@operator("Atan", since=7)
@operator("Atanh", since=9)
@operator("Ceil", since=6)
@operator("Cos", since=7)
@operator("Cosh", since=9)
@operator("Erf", since=9)
@operator("Exp", since=6)
@operator("Floor", since=6)
@operator("IsNaN", since=9)
@operator("Log", since=6)
@operator("Neg", since=6)
@operator("Reciprocal", since=6)
@operator("Round", since=11)
@operator("Sign", since=9)
@operator("Sin", since=7)
@operator("Sinh", since=9)
@operator("Sqrt", since=6)
@operator("Tan", since=7)
def pointwise(x: Tensor, *, op_type: str) -> Tensor:
    return getattr(torch, op_type.lower())(x)


@operator("IsInf", since=10)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    found = found | torch.isposinf(x) if detect_positive else found
    return found | torch.isneginf(x) if detect_negative else found


@operator("Min", since=6)
def minimum(*tensors: Tensor) -> Tensor:
    return reduce(torch.minimum, tensors)


@operator("Max", since=6)
def maximum(*tensors: Tensor) -> Tensor:
    return reduce(torch.maximum, tensors)


@operator("Sum", since=6)
def total(*tensors: Tensor) -> Tensor:
    return reduce(torch.add, tensors)


@operator("Mean", since=6)
def average(*tensors: Tensor) -> Tensor:
    return reduce(torch.add, tensors) / len(tensors)


@operator("Equal", since=7)
def equal(a: Tensor, b: Tensor) -> Tensor:
    return a == b


@operator("Greater", since=7)
def greater(a: Tensor, b: Tensor) -> Tensor:
    return a > b


@operator("GreaterOrEqual", since=12)
def greater_or_equal(a: Tensor, b: Tensor) -> Tensor:
    return a >= b


@operator("Less", since=7)
def less(a: Tensor, b: Tensor) -> Tensor:
    return a < b


@operator("LessOrEqual", since=12)
def less_or_equal(a: Tensor, b: Tensor) -> Tensor:
    return a <= b


@operator("And", since=7)
def logical_and(a: Tensor, b: Tensor) -> Tensor:
    return a & b


@operator("Or", since=7)
def logical_or(a: Tensor, b: Tensor) -> Tensor:
    return a | b


@operator("Xor", since=7)
def logical_xor(a: Tensor, b: Tensor) -> Tensor:
    return a ^ b


@operator("Not", since=1)
def logical_not(x: Tensor) -> Tensor:
    return ~x


@operator("Where", since=9)
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("Cast", since=6)
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: Literal["up", "down", "nearest"] = "up") -> Tensor:
    if to in LOW_FLOATS:
        return to_low_float(x, to, saturate=bool(saturate), round_mode=round_mode)
    if to in INTEGERS:  # by way of the widest, so that floats too lose the high bits that do not fit
        return wrapped(x.to(torch.int64), to).to(torch_dtype(to))
    return x.to(torch_dtype(to))


@operator("CastLike", since=15, frozen=("like",))
def cast_like(
    x: Tensor,
    like: Tensor,
    *,
    saturate: int = 1,
    round_mode: Literal["up", "down", "nearest"] = "up",
    input_types: tuple[int, ...],
) -> Tensor:
    return cast(x, to=input_types[1], saturate=saturate, round_mode=round_mode)


@operator("Identity", since=1)
def identity(x: Tensor) -> Tensor:
    return x


@operator("Dropout", since=7)
def dropout(x: Tensor, *, ratio: float = 0.5, outputs: int) -> tuple[Tensor, ...]:
    """Nothing is dropped in inference; the mask, when asked for, keeps everything."""
    return (x, torch.ones_like(x, dtype=torch.bool))[:outputs]


@operator("Dropout", since=12, frozen=("ratio",))
def dropout_with_inputs(
    x: Tensor,
    ratio: Tensor | None = None,
    training_mode: Tensor | None = None,
    *,
    seed: int = 0,
    outputs: int,
) -> tuple[Tensor, ...]:
    """As above; ``training_mode`` is ignored, for the engine always runs a model as it is deployed."""
    return dropout(x, outputs=outputs)
