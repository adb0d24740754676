"""Resize and Upsample: by torch where it has the same rule, else one axis after the other, each output a weighted sum
of a few inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.interpolation import cubic_taps, linear_taps, stretched_taps
from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import Ints, floats, ints

Floats = Tensor | list[float]

# torch's names by mode and number of axes.
_TORCH_MODES = {
    ("nearest", 3): "nearest",
    ("nearest", 4): "nearest",
    ("nearest", 5): "nearest",
    ("linear", 3): "linear",
    ("linear", 4): "bilinear",
    ("linear", 5): "trilinear",
    ("cubic", 4): "bicubic",
}


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
    antialias: int = 0,
    axes: list[int] | None = None,
    coordinate_transformation_mode: Literal[
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_half_pixel_for_nn",
        "tf_crop_and_resize",
    ] = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: Literal["stretch", "not_larger", "not_smaller"] = "stretch",
    mode: Literal["nearest", "linear", "cubic"] = "nearest",
    nearest_mode: Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] = "round_prefer_floor",
) -> Tensor:
    """Resize the ``axes`` (all of them when missing) by ``scales``, or to ``sizes`` when these are given.

    As in ONNX Runtime, and unlike the reference of ONNX, align_corners goes by the length of the output after it has
    been rounded down, and ``scales`` alone make the size where tf_crop_and_resize reads a part.
    """
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    dims = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    targets = [] if sizes is None else ints(sizes)
    bounds = floats(roi) if crop and roi is not None else [0.0] * len(dims) + [1.0] * len(dims)
    if targets:
        factors = [target / x.shape[axis] for axis, target in zip(dims, targets, strict=True)]
        if keep_aspect_ratio_policy != "stretch":
            common = min(factors) if keep_aspect_ratio_policy == "not_larger" else max(factors)
            factors = [common] * len(dims)
            targets = [math.floor(common * x.shape[axis] + 0.5) for axis in dims]
    else:
        factors = floats([] if scales is None else scales)
        targets = [math.floor(x.shape[axis] * factor) for axis, factor in zip(dims, factors, strict=True)]
    steps = [
        step
        for step in map(_Step, dims, [x.shape[axis] for axis in dims], targets, factors, bounds, bounds[len(dims) :])
        if step != _Step(step.axis, step.before, step.before, 1.0, 0.0, 1.0)
    ]
    if not (antialias or exclude_outside) and (mode != "cubic" or cubic_coeff_a == -0.75):
        resized = _by_torch(x, steps, mode, coordinate_transformation_mode, nearest_mode)
        if resized is not None:
            return resized

    y = x if mode == "nearest" or x.is_floating_point() else x.float()
    for step in steps:
        where = step.coordinates(coordinate_transformation_mode)
        if mode == "nearest":
            y = y.index_select(step.axis, step.nearest(where, nearest_mode).to(x.device))
        elif antialias and step.scale < 1:
            taps = stretched_taps(where, 1 / step.scale, cubic_coeff_a if mode == "cubic" else None)
            y = _weighted_sum(y, step.axis, *taps, bool(exclude_outside))
        else:
            taps = cubic_taps(where, cubic_coeff_a) if mode == "cubic" else linear_taps(where)
            y = _weighted_sum(y, step.axis, *taps, bool(exclude_outside) and mode == "cubic")
        if crop:
            outside = ((where < 0) | (where > step.before - 1)).to(x.device)
            y = y.masked_fill(outside.reshape(-1, *(1,) * (x.ndim - 1 - step.axis)), extrapolation_value)
    return y.to(x.dtype)


@dataclass(frozen=True)
class _Step:
    """One axis to be resized, of which the part from start to end (shares of its length) is read."""

    axis: int
    before: int
    after: int
    scale: float
    start: float
    end: float

    def coordinates(self, mode: str) -> Tensor:
        """Where each output element lies among the inputs, in single precision as in ONNX Runtime."""
        position = torch.arange(self.after, dtype=torch.float32)
        last = self.before - 1
        if mode == "tf_crop_and_resize":
            if self.after == 1:
                return torch.full((1,), 0.5 * (self.start + self.end) * last)
            return self.start * last + position * ((self.end - self.start) * last / (self.after - 1))
        if mode == "asymmetric":
            return position / self.scale
        if mode == "align_corners":
            return position * (last / (self.after - 1) if self.after > 1 else 0.0)
        if mode == "pytorch_half_pixel" and self.after == 1:
            return torch.zeros(1)
        centre = (position + 0.5) / self.scale
        if mode == "tf_half_pixel_for_nn":
            return centre
        # With a fractional output size the symmetric mode keeps the crop centred.
        symmetric = mode == "half_pixel_symmetric"
        offset = self.before / 2 * (1 - self.after / (self.scale * self.before)) if symmetric else 0.0
        return centre - 0.5 + offset

    def nearest(self, where: Tensor, mode: str) -> Tensor:
        """The input element of each output element."""
        if mode.startswith("round"):
            rounded = torch.ceil(where - 0.5) if mode == "round_prefer_floor" else torch.floor(where + 0.5)
        else:
            rounded = torch.floor(where) if mode == "floor" else torch.ceil(where)
        return rounded.clamp(0, self.before - 1).long()


def _by_torch(x: Tensor, steps: list[_Step], mode: str, coordinates: str, nearest_mode: str) -> Tensor | None:
    """x resized by the kernel of torch, which is faster, or None where torch has none of exactly this rule."""
    name = _TORCH_MODES.get((mode, x.ndim))
    if name is None or not x.is_floating_point() or any(step.axis < 2 for step in steps):
        return None
    size = list(x.shape[2:])
    for step in steps:
        size[step.axis - 2] = step.after
    if mode == "nearest":
        # torch multiplies by the inverse of the scale, which is exact for powers of two.
        factors = [step.after // step.before for step in steps]
        exact = all(factor.bit_count() == 1 for factor in factors) and all(
            step.nearest(step.coordinates(coordinates), nearest_mode).equal(torch.arange(step.after) // factor)
            for step, factor in zip(steps, factors, strict=True)
        )
        return F.interpolate(x, size, mode=name) if exact else None
    if coordinates == "align_corners":
        return F.interpolate(x, size, mode=name, align_corners=True)
    exact = coordinates in ("half_pixel", "pytorch_half_pixel") and all(
        step.after / step.before == step.scale and (step.after > 1 or coordinates == "half_pixel") for step in steps
    )
    return F.interpolate(x, size, mode=name, align_corners=False) if exact else None


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
