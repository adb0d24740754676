"""Reading an image between its pixels: GridSample, AffineGrid, DeformConv, RoiAlign."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.interpolation import Taps, cubic_taps, linear_taps, sample
from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.spatial import window
from onnxdfq.engine.operators.values import Ints, ints

_TORCH_MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


@operator("GridSample", since=16)
def grid_sample_2d(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: Literal["bilinear", "nearest", "bicubic"] = "bilinear",
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros",
) -> Tensor:
    return _grid_sample(x, grid, bool(align_corners), mode.removeprefix("bi"), padding_mode)


@operator("GridSample", since=20)
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: Literal["linear", "nearest", "cubic"] = "linear",
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros",
) -> Tensor:
    """x [N, C, *size], grid [N, *out, rank] with the coordinate of the last axis first -> [N, C, *out]."""
    return _grid_sample(x, grid, bool(align_corners), mode, padding_mode)


@operator("AffineGrid", since=20, host=("size",))
def affine_grid(theta: Tensor, size: Ints, *, align_corners: int = 0) -> Tensor:
    """theta [N, rank, rank + 1], size (N, C, *size) -> [N, *size, rank]."""
    return F.affine_grid(theta, ints(size), bool(align_corners))


@operator("DeformConv", since=19)
def deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    offset_group: int = 1,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """x [N, C, *size], weight [M, C / group, *kernel], offset [N, offset_group * *kernel * rank, *out], mask
    [N, offset_group * *kernel, *out] -> [N, M, *out]: a convolution whose every tap is displaced by the offset."""
    batch, _, *size = x.shape
    rank, out, kernel = len(size), offset.shape[2:], weight.shape[2:]
    view = window(size, kernel, strides, dilations, pads, "NOTSET")
    taps = []
    for axis, displaced in enumerate(offset.reshape(-1, *kernel, rank, *out).unbind(1 + rank)):
        steps = torch.arange(kernel[axis], device=x.device) * view.dilations[axis]
        starts = torch.arange(out[axis], device=x.device) * view.strides[axis] - view.before[axis]
        # displaced is [N * offset_group, *kernel, *out]
        where = (
            displaced + steps.reshape(-1, *(1,) * (2 * rank - 1 - axis)) + starts.reshape(-1, *(1,) * (rank - 1 - axis))
        )
        taps.append(_inside(linear_taps(where.flatten(1)), size[axis], True))
    columns = sample(x.reshape(batch * offset_group, -1, *size), taps)
    if mask is not None:
        columns = columns * mask.reshape(batch * offset_group, 1, -1)
    product = weight.reshape(group, len(weight) // group, -1) @ columns.reshape(batch, group, -1, math.prod(out))
    y = product.reshape(batch, -1, *out)
    return y if bias is None else y + bias.reshape(-1, *(1,) * rank)


@operator("RoiAlign", since=10)
def roi_align_unshifted(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    mode: Literal["avg", "max"] = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    return roi_align(
        x,
        rois,
        batch_indices,
        coordinate_transformation_mode="output_half_pixel",
        mode=mode,
        output_height=output_height,
        output_width=output_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


@operator("RoiAlign", since=16)
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: Literal["half_pixel", "output_half_pixel"] = "half_pixel",
    mode: Literal["avg", "max"] = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """x [N, C, H, W], rois [R, 4] as x1, y1, x2, y2, batch_indices [R] -> [R, C, output_height, output_width].

    As in the reference and in ONNX Runtime, ``max`` is the largest of the weighted pixels, not of the interpolated
    values.
    """
    channels, height, width = x.shape[1:]
    shifted = coordinate_transformation_mode == "half_pixel"
    x1, y1, x2, y2 = (rois * spatial_scale - (0.5 if shifted else 0.0)).unbind(-1)
    spans = [y2 - y1, x2 - x1] if shifted else [(y2 - y1).clamp(min=1), (x2 - x1).clamp(min=1)]
    rows, row_weights, row_exists = _roi_taps(y1, spans[0], output_height, sampling_ratio, height)
    columns, column_weights, column_exists = _roi_taps(x1, spans[1], output_width, sampling_ratio, width)
    # [R, output_height, output_width, the pixels that are read], each pixel a row of a table [N * H * W, C].
    index = batch_indices[:, None, None, None, None] * height + rows[:, :, None, :, None]
    index = (index * width + columns[:, None, :, None, :]).flatten(3)
    weights = (row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]).flatten(3)
    exists = (row_exists[:, None, None, :, None] & column_exists[:, None, None, None, :]).flatten(3)
    table = x.movedim(1, -1).reshape(-1, channels)
    if mode == "avg":
        count = exists.sum(-1, keepdim=True) / 4  # a sample reads four pixels
        weights = (weights * exists / count.clamp(min=1)).to(x.dtype)
        y = F.embedding_bag(index.flatten(0, 2), table, mode="sum", per_sample_weights=weights.flatten(0, 2))
        y = y.unflatten(0, index.shape[:3])
    else:
        y = (table[index] * weights[..., None]).masked_fill(~exists[..., None], -math.inf).amax(3)
        y = torch.where(exists.any(-1, keepdim=True), y, 0.0)
    return y.movedim(-1, 1)


def _grid_sample(x: Tensor, grid: Tensor, align_corners: bool, mode: str, padding_mode: str) -> Tensor:
    values = x.to(torch.promote_types(x.dtype, grid.dtype))
    grid = grid.to(values.dtype)
    rank = x.ndim - 2
    # torch reflects before it rounds, ONNX after: at the middle between two pixels they differ.
    unlike = (mode == "nearest" and padding_mode == "reflection") or (mode == "cubic" and rank == 3)
    if rank in (2, 3) and not unlike:
        y = F.grid_sample(values, grid, _TORCH_MODES[mode], padding_mode, align_corners)
    else:
        taps = []
        for axis, size in enumerate(x.shape[2:]):
            where = grid.flatten(1, -2)[..., rank - 1 - axis]
            where = (where + 1) / 2 * (size - 1) if align_corners else ((where + 1) * size - 1) / 2
            positions, weights = _grid_taps(where, mode)
            if padding_mode == "reflection":
                positions = _reflected(positions, size, align_corners)
            taps.append(_inside((positions, weights), size, padding_mode == "zeros"))
        y = sample(values, taps).unflatten(-1, grid.shape[1:-1])
    return y.to(x.dtype)


def _grid_taps(where: Tensor, mode: str) -> Taps:
    if mode == "nearest":
        return where.round()[None], torch.ones_like(where)[None]
    return linear_taps(where) if mode == "linear" else cubic_taps(where, -0.75)


def _inside(taps: Taps, size: int, zeros: bool) -> Taps:
    """Positions beyond the edge read the edge, or zero."""
    positions, weights = taps
    clamped = positions.clamp(0, size - 1)
    return clamped, weights * (positions == clamped) if zeros else weights


def _reflected(positions: Tensor, size: int, align_corners: bool) -> Tensor:
    """Positions folded back at the centres of the outermost pixels, or at their outer edges."""
    first, span = (0.0, size - 1) if align_corners else (-0.5, size)
    if span == 0:
        return torch.zeros_like(positions)
    distance = (positions - first).abs()
    rest = distance % span
    return first + torch.where(distance // span % 2 == 0, rest, span - rest)


def _roi_taps(start: Tensor, span: Tensor, bins: int, sampling_ratio: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """One axis of regions that begin at start [R] and are cut into bins: the pixels that the samples of each bin read
    and their weights [R, bins, 2 * S], and which of the samples exist [R, 2 * S]: S is that of the largest region."""
    counts = torch.full_like(span, sampling_ratio) if sampling_ratio else (span / bins).ceil().detach()
    samples = sampling_ratio or max([1, *counts.int().tolist()])
    sample_index = torch.arange(samples, device=span.device)
    place = (sample_index + 0.5) / counts.clamp(min=1)[:, None]  # [R, S], within a bin
    bin_index = torch.arange(bins, device=span.device)[:, None]
    where = start[:, None, None] + (span / bins)[:, None, None] * (bin_index + place[:, None])
    near = (where >= -1) & (where <= size)
    positions, weights = _inside(linear_taps(where.clamp(0, size - 1)), size, False)
    exists = (sample_index < counts[:, None]).repeat(1, 2)
    return torch.cat(positions.unbind(0), -1).long(), torch.cat((weights * near).unbind(0), -1), exists
