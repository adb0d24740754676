"""Reading and writing elements by index."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import Ints, ints

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}  # in torch's words


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
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """The last axis of ``indices`` is a position in the axes of x that follow the ``batch_dims`` common ones."""
    places = indices.ndim - 1
    batch = (torch.arange(n, device=x.device) for n in x.shape[:batch_dims])
    shaped = (each.reshape(-1, *(1,) * (places - 1 - axis)) for axis, each in enumerate(batch))
    return x[(*shaped, *indices.long().unbind(-1))]


@operator("Scatter", since=9)
def scatter(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0) -> Tensor:
    """The old name of ScatterElements."""
    return scatter_elements(x, indices, updates, axis=axis)


@operator("ScatterElements", since=11)
def scatter_elements(
    x: Tensor,
    indices: Tensor,
    updates: Tensor,
    *,
    axis: int = 0,
    reduction: Literal["none", "add", "mul", "max", "min"] = "none",
) -> Tensor:
    """x with ``updates`` written to, or joined with, the elements that ``indices`` name along ``axis``."""
    where = _from_start(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, where, updates)
    return x.scatter_reduce(axis, where, updates, _REDUCTIONS[reduction])


@operator("ScatterND", since=11)
def scatter_nd(
    x: Tensor, indices: Tensor, updates: Tensor, *, reduction: Literal["none", "add", "mul", "max", "min"] = "none"
) -> Tensor:
    """The last axis of ``indices`` is a position in the first axes of x; slices of x are written there."""
    positions = indices.long().unbind(-1)
    if reduction in ("none", "add"):
        return torch.index_put(x, positions, updates, accumulate=reduction == "add")
    # The rest by the elements of x laid out flat.
    flat = torch.arange(x.numel(), device=x.device).reshape(x.shape)[positions]
    return (
        x.reshape(-1).scatter_reduce(0, flat.reshape(-1), updates.reshape(-1), _REDUCTIONS[reduction]).reshape(x.shape)
    )


@operator("TensorScatter", since=24)
def tensor_scatter(
    past: Tensor,
    update: Tensor,
    write_indices: Tensor | None = None,
    *,
    axis: int = -2,
    mode: Literal["linear", "circular"] = "linear",
) -> Tensor:
    """A cache whose entries along ``axis`` are replaced, for each of the batch from its own index on."""
    batch, length = past.shape[0], past.shape[axis]
    first = write_indices if write_indices is not None else torch.zeros(batch, dtype=torch.int64, device=past.device)
    where = first.long()[:, None] + torch.arange(update.shape[axis], device=past.device)
    where = where % length if mode == "circular" else where
    rows = torch.arange(batch, device=past.device)[:, None]
    written = torch.index_put(past.movedim(axis, 1), (rows, where), update.movedim(axis, 1))
    return written.movedim(1, axis)


@operator("OneHot", since=9, host=("depth",))
def one_hot(indices: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    """``values`` are (off, on); an index beyond the depth is on nowhere."""
    length = ints(depth)[0]
    axis = axis % (indices.ndim + 1)
    at = torch.where(indices < 0, indices + length, indices).unsqueeze(axis)
    classes = torch.arange(length, device=at.device).reshape(-1, *(1,) * (indices.ndim - axis))
    return torch.where(at == classes, values[1], values[0])


@operator("Compress", since=9)
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """The entries along ``axis``, or of x laid out flat, at which the condition holds."""
    flat, along = (x.reshape(-1), 0) if axis is None else (x, axis)
    return flat.index_select(along, torch.nonzero(condition).reshape(-1))


@operator("NonZero", since=9)
def non_zero(x: Tensor) -> Tensor:
    """The positions of the elements that are not zero: [rank, count]."""
    return torch.nonzero(x).T


@operator("Unique", since=11)
def unique(x: Tensor, *, axis: int | None = None, sorted: int = 1, outputs: int) -> tuple[Tensor, ...]:
    """The different elements, or slices along ``axis``; for each the first position and the count, and for each of x
    which one it is. Without ``sorted`` they come in the order in which they first occur."""
    flat, along = (x.reshape(-1), 0) if axis is None else (x, axis)
    _, inverse, counts = torch.unique(flat, return_inverse=True, return_counts=True, dim=along)
    positions = torch.arange(flat.shape[along], device=x.device)
    first = torch.full_like(counts, flat.shape[along]).scatter_reduce(0, inverse, positions, "amin")
    if not sorted:
        order = torch.argsort(first)
        first, counts = first[order], counts[order]
        inverse = torch.argsort(order)[inverse]
    # Read from x, as torch has no gradient of its own unique values.
    return (flat.index_select(along, first), first, inverse, counts)[:outputs]


@operator("ReverseSequence", since=10)
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """The first ``lengths[i]`` steps of sequence i in reverse order, the rest as it is."""
    time = torch.arange(x.shape[time_axis], device=x.device)
    from_step = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    rows = torch.arange(x.shape[batch_axis], device=x.device)[:, None]
    return x.movedim((batch_axis, time_axis), (0, 1))[rows, from_step].movedim((0, 1), (batch_axis, time_axis))


@operator("Trilu", since=14, host=("k",))
def triangle(x: Tensor, k: Tensor | int = 0, *, upper: int = 1) -> Tensor:
    return torch.triu(x, int(k)) if upper else torch.tril(x, int(k))


def _from_start(indices: Tensor, length: int) -> Tensor:
    """Negative indices count from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + length, indices)
