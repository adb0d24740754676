"""Reductions over axes, and the position or order of the largest elements."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import Ints, ints


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((dim % x.ndim for dim in dims), reverse=True):  # torch.prod takes one axis at a time
        x = x.prod(dim, keepdim=keep)
    return x


def _largest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.numel():
        return x.amax(dims, keep)
    lowest = False if x.dtype == torch.bool else -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return x.sum(dims, keep).to(x.dtype).fill_(lowest)  # of nothing


def _smallest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.numel():
        return x.amin(dims, keep)
    highest = True if x.dtype == torch.bool else math.inf if x.is_floating_point() else torch.iinfo(x.dtype).max
    return x.sum(dims, keep).to(x.dtype).fill_(highest)


_REDUCE: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceL1": lambda x, dims, keep: x.abs().sum(dims, keep),
    "ReduceL2": lambda x, dims, keep: torch.linalg.vector_norm(x, 2, dims, keep),
    "ReduceLogSum": lambda x, dims, keep: x.sum(dims, keep).log(),
    "ReduceLogSumExp": lambda x, dims, keep: x.logsumexp(dims, keep),
    "ReduceMax": _largest,
    "ReduceMean": lambda x, dims, keep: x.mean(dims, keep),
    "ReduceMin": _smallest,
    "ReduceProd": _product,
    "ReduceSum": lambda x, dims, keep: x.sum(dims, keep),
    "ReduceSumSquare": lambda x, dims, keep: x.square().sum(dims, keep),
}


@operator("ReduceL1", since=1)
@operator("ReduceL2", since=1)
@operator("ReduceLogSum", since=1)
@operator("ReduceLogSumExp", since=1)
@operator("ReduceMax", since=1)
@operator("ReduceMean", since=1)
@operator("ReduceMin", since=1)
@operator("ReduceProd", since=1)
@operator("ReduceSum", since=1)
@operator("ReduceSumSquare", since=1)
def reduce_over_attribute(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1, op_type: str) -> Tensor:
    """Reduce over ``axes``, over all when it is missing."""
    return _REDUCE[op_type](x, list(axes or range(x.ndim)), bool(keepdims)).to(x.dtype)


@operator("ReduceL1", since=18, host=("axes",))
@operator("ReduceL2", since=18, host=("axes",))
@operator("ReduceLogSum", since=18, host=("axes",))
@operator("ReduceLogSumExp", since=18, host=("axes",))
@operator("ReduceMax", since=18, host=("axes",))
@operator("ReduceMean", since=18, host=("axes",))
@operator("ReduceMin", since=18, host=("axes",))
@operator("ReduceProd", since=18, host=("axes",))
@operator("ReduceSum", since=13, host=("axes",))
@operator("ReduceSumSquare", since=18, host=("axes",))
def reduce_over_input(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0, op_type: str
) -> Tensor:
    """As above; without axes the input passes unchanged when ``noop_with_empty_axes`` says so."""
    chosen = [] if axes is None else ints(axes)
    if not chosen and noop_with_empty_axes:
        return x
    return reduce_over_attribute(x, axes=chosen, keepdims=keepdims, op_type=op_type)


@operator("ArgMax", since=1)
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if select_last_index:
        return x.shape[axis] - 1 - torch.argmax(x.flip(axis), axis, keepdim=bool(keepdims))
    return torch.argmax(x, axis, keepdim=bool(keepdims))


@operator("ArgMin", since=1)
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if select_last_index:
        return x.shape[axis] - 1 - torch.argmin(x.flip(axis), axis, keepdim=bool(keepdims))
    return torch.argmin(x, axis, keepdim=bool(keepdims))


@operator("TopK", since=10, host=("k",))
def top_k(x: Tensor, k: Ints, *, axis: int = -1, largest: int = 1, sorted: int = 1, outputs: int) -> tuple[Tensor, ...]:
    """The k largest (or smallest) elements along ``axis`` and their positions; the first of equals wins."""
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    count = ints(k)[0]
    return (values.narrow(axis, 0, count), indices.narrow(axis, 0, count))[:outputs]


@operator("CumSum", since=11, host=("axis",))
@operator("CumProd", since=26, host=("axis",))
def cumulate(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0, op_type: str) -> Tensor:
    """Sums or products of the elements up to each one; of those before it, with ``exclusive``."""
    dim = ints(axis)[0]
    run, neutral = (torch.cumsum, 0) if op_type == "CumSum" else (torch.cumprod, 1)
    ordered = x.flip(dim) if reverse else x
    if exclusive:
        first = torch.full_like(ordered.narrow(dim, 0, 1), neutral)
        ordered = torch.cat([first, ordered.narrow(dim, 0, x.shape[dim] - 1)], dim)
    done = run(ordered, dim, dtype=x.dtype)
    return done.flip(dim) if reverse else done
