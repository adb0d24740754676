"""Local and global pooling over one, two or three spatial axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.spatial import Window, torch_order, window

_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@operator("MaxPool", since=1)
def max_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
    outputs: int,
) -> tuple[Tensor, ...]:
    """x [N, C, *size] -> [N, C, *out], and the flat index of each maximum if the node lists it."""
    view = window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    if outputs > 1:
        return _max_pool_with_indices(x, view, bool(ceil_mode), storage_order)
    run = _MAX_POOL[len(view.pads)]
    if _torch_can_pad(view):
        return (run(x, view.kernel, view.strides, view.before, view.dilations, bool(ceil_mode)),)
    padded = F.pad(x, torch_order(_exact_pads(x, view, bool(ceil_mode))), value=-math.inf)
    return (run(padded, view.kernel, view.strides, 0, view.dilations),)


@operator("AveragePool", since=1)
def average_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """x [N, C, *size] -> [N, C, *out]; padding counts in the average only with count_include_pad."""
    view = window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    rank = len(view.pads)
    if _torch_can_pad(view) and set(view.dilations) == {1}:
        padding, ceil = view.before, bool(ceil_mode)
        return _AVG_POOL[rank](x, view.kernel, view.strides, padding, ceil, bool(count_include_pad))
    # Sums of the values over sums of what counts, both as convolutions with ones.
    exact = _exact_pads(x, view, bool(ceil_mode))
    counted = x.new_ones((1, 1, *x.shape[2:]))
    if count_include_pad:
        counted = F.pad(counted, torch_order(view.pads), value=1.0)
        exact_counted = [(0, end - given) for (_, end), (_, given) in zip(exact, view.pads, strict=True)]
    else:
        exact_counted = exact
    ones = x.new_ones((1, 1, *view.kernel))
    total, count = (
        _CONV[rank](F.pad(image, torch_order(amounts)), ones, None, view.strides, 0, view.dilations)
        for image, amounts in ((x.reshape(-1, 1, *x.shape[2:]), exact), (counted, exact_counted))
    )
    return (total / count).reshape(*x.shape[:2], *total.shape[2:])


@operator("LpPool", since=2)
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    p: int = 2,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """x [N, C, *size] -> [N, C, *out]: the p-norm of each window."""
    view = window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    exact = _exact_pads(x, view, bool(ceil_mode))
    powers = F.pad(x.abs().pow(p).reshape(-1, 1, *x.shape[2:]), torch_order(exact))
    ones = x.new_ones((1, 1, *view.kernel))
    sums = _CONV[len(exact)](powers, ones, None, view.strides, 0, view.dilations)
    return sums.pow(1 / p).reshape(*x.shape[:2], *sums.shape[2:])


@operator("GlobalLpPool", since=2)
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    return torch.linalg.vector_norm(x, p, list(range(2, x.ndim)), keepdim=True)


@operator("GlobalAveragePool", since=1)
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool", since=1)
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.ndim)), keepdim=True)


def _torch_can_pad(view: Window) -> bool:
    """torch's pooling pads both sides alike and by half a kernel at most; its ceil rule is that of ONNX."""
    return view.symmetric and all(2 * begin <= k for begin, k in zip(view.before, view.kernel, strict=True))


def _exact_pads(x: Tensor, view: Window, ceil: bool) -> list[tuple[int, int]]:
    """The pads with which floor-mode windows fit exactly: the end grows in ceil mode, or is cut."""
    exact = []
    for length, step, reach, (begin, end) in zip(x.shape[2:], view.strides, view.reach, view.pads, strict=True):
        room = length + begin + end - reach
        count = (-(-room // step) if ceil else room // step) + 1
        if ceil and (count - 1) * step >= length + begin:  # a window must not start in the padding at the end
            count -= 1
        exact.append((begin, (count - 1) * step + reach - length - begin))
    return exact


def _max_pool_with_indices(x: Tensor, view: Window, ceil: bool, storage_order: int) -> tuple[Tensor, ...]:
    """As max_pool; indices count over all of [N, C, *size], columns first if storage_order is 1."""
    size = x.shape[2:]
    pads = _exact_pads(x, view, ceil)
    padded = F.pad(x, torch_order(pads), value=-math.inf)
    pool = {1: F.max_pool1d_with_indices, 2: F.max_pool2d_with_indices, 3: F.max_pool3d_with_indices}[len(size)]
    y, flat = pool(padded, view.kernel, view.strides, (0,) * len(size), view.dilations)
    # Unravel in the padded image, ravel in the original one.
    index = torch.zeros_like(flat)
    stride = 1
    axes = []
    for axis in reversed(range(len(size))):
        axes.append((axis, flat % padded.shape[axis + 2] - pads[axis][0]))
        flat = flat // padded.shape[axis + 2]
    for axis, position in sorted(axes, key=lambda item: item[0], reverse=storage_order == 0):
        index = index + position * stride
        stride *= size[axis]
    image = torch.arange(x.shape[0] * x.shape[1], device=x.device) * stride
    return y, index + image.reshape(*x.shape[:2], *(1,) * len(size))
