"""Reading and writing elements by index."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from onnxdfq.engine.operators.registry import operator


@operator("Gather", since=1)
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Entries of x along ``axis`` -> x.shape[:axis] + indices.shape + x.shape[axis + 1:]."""
    axis = axis % x.ndim
    taken = x.index_select(axis, _from_start(indices.reshape(-1), x.shape[axis]))
    return taken.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


@operator("GatherElements", since=11)
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _from_start(indices, x.shape[axis]))


@operator("GatherND", since=11)
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: Literal[0] = 0) -> Tensor:
    return x[tuple(indices.long().unbind(-1))]


@operator("ScatterElements", since=11)
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: Literal["none"] = "none"
) -> Tensor:
    return x.scatter(axis, _from_start(indices, x.shape[axis]), updates)


@operator("ScatterND", since=11)
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: Literal["none"] = "none") -> Tensor:
    return torch.index_put(x, tuple(indices.long().unbind(-1)), updates)


@operator("NonZero", since=9)
def non_zero(x: Tensor) -> Tensor:
    """The positions of the elements that are not zero: [rank, count]."""
    return torch.nonzero(x).T


@operator("Trilu", since=14, host=("k",))
def triangle(x: Tensor, k: Tensor | int = 0, *, upper: int = 1) -> Tensor:
    return torch.triu(x, int(k)) if upper else torch.tril(x, int(k))


def _from_start(indices: Tensor, length: int) -> Tensor:
    """Negative indices count from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + length, indices)
