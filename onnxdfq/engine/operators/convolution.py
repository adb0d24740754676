"""Conv and ConvTranspose over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
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


@operator("CausalConvWithState", since=27)
def causal_conv_with_state(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    past: Tensor | None = None,
    *,
    activation: Literal["none", "silu", "swish"] = "none",
    outputs: int,
) -> tuple[Tensor, ...]:
    """x [N, C, L], weight [C, 1, K], past [N, C, K - 1] -> [N, C, L], and the last K - 1 steps, which the next call
    takes as its past. A step sees itself and what came before it."""
    state = weight.shape[2] - 1
    before = x.new_zeros((*x.shape[:2], state)) if past is None else past
    seen = torch.cat([before, x], 2)
    y = F.conv1d(seen, weight, bias, groups=x.shape[1])
    return (y if activation == "none" else F.silu(y), seen.narrow(2, seen.shape[2] - state, state))[:outputs]


def _crop(full: Sequence[int], wanted: Sequence[int], auto_pad: str) -> list[tuple[int, int]]:
    """What to cut from both ends of the full output; the odd element goes as auto_pad says."""
    crop = []
    for have, want in zip(full, wanted, strict=True):
        total = have - want
        if total < 0:  # more is asked for than there is: zeros at the end
            crop.append((0, total))
            continue
        small, large = total // 2, total - total // 2
        crop.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
    return crop
