"""Resize and Upsample: one axis after the other, each output a weighted sum of a few inputs."""

from __future__ import annotations

import math
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import Ints, floats, ints

Floats = Tensor | list[float]


@operator("Upsample", since=7)
def upsample_by_attribute(x: Tensor, *, scales: list[float], mode: Literal["nearest", "linear"] = "nearest") -> Tensor:
    return upsample(x, scales, mode=mode)


@operator("Upsample", since=9, host=("scales",))
@operator("Resize", since=10, host=("scales",))
def upsample(x: Tensor, scales: Floats, *, mode: Literal["nearest", "linear"] = "nearest") -> Tensor:
    """The first forms of Resize knew one rule: output position / scale, rounded down for nearest."""
    return resize(x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@operator("Resize", since=11, host=("roi", "scales", "sizes"))
def resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: Literal[0] = 0,
    axes: list[int] | None = None,
    coordinate_transformation_mode: Literal[
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_half_pixel_for_nn",
    ] = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: Literal["stretch", "not_larger", "not_smaller"] = "stretch",
    mode: Literal["nearest", "linear", "cubic"] = "nearest",
    nearest_mode: Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] = "round_prefer_floor",
) -> Tensor:
    """Resize the ``axes`` (all of them when missing) by ``scales``, or to ``sizes`` when these are given."""
    dims = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    targets = [] if sizes is None else ints(sizes)
    if targets:
        factors = [target / x.shape[axis] for axis, target in zip(dims, targets, strict=True)]
        if keep_aspect_ratio_policy != "stretch":
            common = min(factors) if keep_aspect_ratio_policy == "not_larger" else max(factors)
            factors = [common] * len(dims)
            targets = [math.floor(common * x.shape[axis] + 0.5) for axis in dims]
    else:
        factors = floats([] if scales is None else scales)
        targets = [math.floor(x.shape[axis] * factor) for axis, factor in zip(dims, factors, strict=True)]
    for axis, factor, length in zip(dims, factors, targets, strict=True):
        if factor == 1.0 and length == x.shape[axis]:
            continue
        where = _coordinates(x.shape[axis], length, factor, coordinate_transformation_mode)
        if mode == "nearest":
            x = x.index_select(axis, _round(where, nearest_mode).clamp(0, x.shape[axis] - 1).long().to(x.device))
        else:
            taps = _linear_taps(where) if mode == "linear" else _cubic_taps(where, cubic_coeff_a)
            x = _weighted_sum(x, axis, *taps, bool(exclude_outside) and mode == "cubic")
    return x


def _coordinates(before: int, after: int, scale: float, mode: str) -> Tensor:
    """Where each of ``after`` output elements lies among ``before`` inputs, in single precision as in ORT."""
    position = torch.arange(after, dtype=torch.float32)
    if mode == "asymmetric":
        return position / scale
    if mode == "align_corners":
        return position * ((before - 1) / (after - 1) if after > 1 else 0.0)
    if mode == "pytorch_half_pixel" and after == 1:
        return torch.zeros(1)
    centre = (position + 0.5) / scale
    if mode == "tf_half_pixel_for_nn":
        return centre
    # With a fractional output size the symmetric mode keeps the crop centred.
    offset = before / 2 * (1 - after / (scale * before)) if mode == "half_pixel_symmetric" else 0.0
    return centre - 0.5 + offset


def _round(where: Tensor, mode: str) -> Tensor:
    if mode == "round_prefer_floor":
        return torch.ceil(where - 0.5)
    if mode == "round_prefer_ceil":
        return torch.floor(where + 0.5)
    return torch.floor(where) if mode == "floor" else torch.ceil(where)


def _linear_taps(where: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [2, length] and weights [2, length] of the two neighbours."""
    low = torch.floor(where)
    share = where - low
    return torch.stack([low, low + 1]), torch.stack([1 - share, share])


def _cubic_taps(where: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """Positions [4, length] and weights [4, length] of cubic convolution with coefficient ``a``."""
    positions = torch.floor(where) + torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    distance = (where - positions).abs()
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return positions, torch.where(distance <= 1, near, far)


def _weighted_sum(x: Tensor, axis: int, positions: Tensor, weights: Tensor, exclude_outside: bool) -> Tensor:
    """Positions beyond the edge read the edge, or count for nothing with ``exclude_outside``."""
    last = x.shape[axis] - 1
    if exclude_outside:
        weights = weights * ((positions >= 0) & (positions <= last))
        weights = weights / weights.sum(0)
    indices = positions.clamp(0, last).long().to(x.device)
    shaped = weights.to(x).reshape(len(weights), -1, *(1,) * (x.ndim - 1 - axis))
    parts = (x.index_select(axis, index) * weight for index, weight in zip(indices, shaped, strict=True))
    return reduce(torch.add, parts)
