"""Tensors made from nothing: constants, ranges, and the shapes of other tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import Ints, ints, torch_dtype


@operator("Constant", since=1)
def constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: list[float] | None = None,
    value_int: int | None = None,
    value_ints: list[int] | None = None,
) -> Tensor:
    if value is not None:
        return value
    if value_int is not None or value_ints is not None:
        return torch.tensor(value_ints if value_int is None else value_int, dtype=torch.int64)
    return torch.tensor(value_floats if value_float is None else value_float, dtype=torch.float32)


@operator("ConstantOfShape", since=9, host=("shape",))
def constant_of_shape(shape: Ints, *, value: Tensor | None = None) -> Tensor:
    device = shape.device if isinstance(shape, Tensor) else None
    fill = torch.zeros(1, device=device) if value is None else value
    return fill.reshape(()).expand(ints(shape))


@operator("EyeLike", since=9)
def eye_like(x: Tensor, *, dtype: int = 0, k: int = 0) -> Tensor:
    """Ones on diagonal ``k``, in the shape of the matrix x."""
    ones = torch.ones(x.shape, dtype=torch_dtype(dtype) if dtype else x.dtype, device=x.device)
    return torch.triu(torch.tril(ones, k), k)


@operator("Range", since=11)
def arithmetic_range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


@operator("Shape", since=1, shape_only=True)
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


@operator("Size", since=1, shape_only=True)
def size(x: Tensor) -> Tensor:
    return torch.tensor(math.prod(x.shape), dtype=torch.int64, device=x.device)
