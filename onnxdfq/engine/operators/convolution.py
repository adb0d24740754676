"""Conv and ConvTranspose over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.spatial import torch_order, window

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv", since=1)
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """x [N, C, *size], weight [M, C / group, *kernel] -> [N, M, *out]."""
    view = window(x.shape[2:], weight.shape[2:], strides, dilations, pads, auto_pad)
    padding = view.before
    if not view.symmetric:
        x, padding = F.pad(x, torch_order(view.pads)), (0,) * len(view.pads)
    return _CONV[len(view.pads)](x, weight, bias, view.strides, padding, view.dilations, group)


@operator("ConvTranspose", since=1)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """x [N, C, *size], weight [C, M / group, *kernel] -> [N, M, *out]."""
    view = window(x.shape[2:], weight.shape[2:], strides, dilations, pads, "NOTSET")
    extra = tuple(output_padding or [0] * len(view.pads))
    crop = list(view.pads)
    if auto_pad == "VALID":
        crop = [(0, 0)] * len(crop)
    elif output_shape or auto_pad != "NOTSET":
        full = [
            (length - 1) * step + reach + more
            for length, step, reach, more in zip(x.shape[2:], view.strides, view.reach, extra, strict=True)
        ]
        wanted = output_shape or [length * step for length, step in zip(x.shape[2:], view.strides, strict=True)]
        crop = _crop(full, wanted[-len(full) :], auto_pad)
    run = _CONV_TRANSPOSE[len(crop)]
    if all(begin == end >= 0 for begin, end in crop):
        padding = tuple(begin for begin, _ in crop)
        return run(x, weight, bias, view.strides, padding, extra, group, view.dilations)
    full_output = run(x, weight, bias, view.strides, 0, extra, group, view.dilations)
    return F.pad(full_output, torch_order([(-begin, -end) for begin, end in crop]))


def _crop(full: Sequence[int], wanted: Sequence[int], auto_pad: str) -> list[tuple[int, int]]:
    """What to cut from both ends of the full output; the odd element goes as auto_pad says."""
    crop = []
    for have, want in zip(full, wanted, strict=True):
        total = max(have - want, 0)
        small, large = total // 2, total - total // 2
        crop.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
    return crop
