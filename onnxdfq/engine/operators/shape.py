"""Operators that move elements without changing them: views, joins and repeats."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.spatial import torch_order
from onnxdfq.engine.operators.values import Ints, Number, ints, number


@operator("Reshape", since=5, host=("shape",))
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """A zero in ``shape`` copies the axis of x, unless ``allowzero``; one entry may be -1."""
    target = ints(shape)
    if not allowzero:
        target = [x.shape[axis] if length == 0 else length for axis, length in enumerate(target)]
    return x.reshape(target)


@operator("Flatten", since=1)
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis if axis >= 0 else axis + x.ndim
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose", since=1)
def transpose(x: Tensor, *, perm: list[int] | None = None) -> Tensor:
    return x.permute(*(perm or reversed(range(x.ndim))))


@operator("Squeeze", since=1)
def squeeze_by_attribute(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    return squeeze(x, axes)


@operator("Squeeze", since=13, host=("axes",))
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(ints(axes)))


@operator("Unsqueeze", since=1)
def unsqueeze_by_attribute(x: Tensor, *, axes: list[int]) -> Tensor:
    return unsqueeze(x, axes)


@operator("Unsqueeze", since=13, host=("axes",))
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """``axes`` are positions in the result, in any order."""
    positions = ints(axes)
    rank = x.ndim + len(positions)
    for axis in sorted(position % rank for position in positions):
        x = x.unsqueeze(axis)
    return x


@operator("Concat", since=4)
def concat(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


@operator("Split", since=2)
def split_by_attribute(x: Tensor, *, axis: int = 0, split: list[int] | None = None, outputs: int) -> tuple[Tensor, ...]:
    return split_by_input(x, split, axis=axis, outputs=outputs)


@operator("Split", since=13, host=("sizes",))
def split_by_input(
    x: Tensor, sizes: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> tuple[Tensor, ...]:
    """Without ``sizes`` the parts are equal, the last one smaller where they cannot be."""
    if sizes is None:
        length = x.shape[axis]
        part = -(-length // outputs)
        sizes = [max(min(part, length - i * part), 0) for i in range(outputs)]
    return torch.split(x, ints(sizes), axis)


@operator("Slice", since=1)
def slice_by_attributes(x: Tensor, *, starts: list[int], ends: list[int], axes: list[int] | None = None) -> Tensor:
    return slice_by_inputs(x, starts, ends, axes)


@operator("Slice", since=10, host=("starts", "ends", "axes", "steps"))
def slice_by_inputs(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """Python's rules for negative and huge givens are those of ONNX."""
    first, last = ints(starts), ints(ends)
    dims = list(range(len(first))) if axes is None else ints(axes)
    strides = [1] * len(first) if steps is None else ints(steps)
    for begin, end, axis, step in zip(first, last, dims, strides, strict=True):
        taken = range(*slice(begin, end, step).indices(x.shape[axis]))
        if step < 0:  # torch slices forwards only
            x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64, device=x.device))
        else:
            index = (slice(None),) * (axis % x.ndim) + (slice(taken.start, taken.start + len(taken) * step, step),)
            x = x[index]
    return x


@operator("Expand", since=8, host=("shape",))
def expand(x: Tensor, shape: Ints) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(ints(shape))))


@operator("Tile", since=6, host=("repeats",))
def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(ints(repeats))


@operator("Pad", since=2)
def pad_by_attributes(
    x: Tensor,
    *,
    pads: list[int],
    mode: Literal["constant", "reflect", "edge"] = "constant",
    value: float = 0.0,
) -> Tensor:
    return pad(x, pads, value, mode=mode)


@operator("Pad", since=11, host=("pads", "value", "axes"))
def pad(
    x: Tensor,
    pads: Ints,
    value: Number | None = None,
    axes: Ints | None = None,
    *,
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant",
) -> Tensor:
    """``pads`` holds what to add before each of the axes, then what to add after; negative amounts crop."""
    amounts = ints(pads)
    dims = list(range(x.ndim)) if axes is None else ints(axes)
    pairs = [(0, 0)] * x.ndim
    for axis, begin, end in zip(dims, amounts[: len(dims)], amounts[len(dims) :], strict=True):
        pairs[axis] = (begin, end)
    if mode == "constant":
        given = number(value)
        fill = given.item() if isinstance(given, Tensor) else given or 0
        return F.pad(x, torch_order(pairs), value=fill)
    for axis, (begin, end) in enumerate(pairs):  # one axis at a time, as torch reflects only the trailing ones
        if begin or end:
            positions = torch.arange(-begin, x.shape[axis] + end, device=x.device)
            x = x.index_select(axis, _fold(positions, x.shape[axis], mode))
    return x


def _fold(positions: Tensor, length: int, mode: str) -> Tensor:
    """Positions outside [0, length) mapped to where their value comes from."""
    if mode == "wrap":
        return positions % length
    if mode == "reflect" and length > 1:
        period = 2 * (length - 1)
        return (length - 1) - ((positions % period) - (length - 1)).abs()
    return positions.clamp(0, length - 1)


@operator("DepthToSpace", since=1)
def depth_to_space(x: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    """x [N, C * b * b, H, W] -> [N, C, H * b, W * b]."""
    n, c, h, w = x.shape
    b, depth = blocksize, c // blocksize**2
    if mode == "CRD":
        return F.pixel_shuffle(x, b)
    return x.reshape(n, b, b, depth, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, depth, h * b, w * b)


@operator("SpaceToDepth", since=1)
def space_to_depth(x: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    """x [N, C, H * b, W * b] -> [N, b * b * C, H, W]."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        return F.pixel_unshuffle(x, b)
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)
