"""What pooling and convolution take apart, put back into an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.spatial import torch_order, window
from onnxdfq.engine.operators.values import Ints, ints


@operator("MaxUnpool", since=9, host=("output_shape",))
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Ints | None = None,
    *,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """x and indices [N, C, *size] -> [N, C, *out], zero where no index points to.

    indices count in the tensor that the attributes alone would give; an ``output_shape`` adds zeros at its ends. ONNX
    Runtime, unlike the reference, counts in the shape given.
    """
    view = window(x.shape[2:], kernel_shape, strides, None, pads, "NOTSET")
    sides = zip(x.shape[2:], view.strides, view.kernel, view.pads, strict=True)
    shape = [*x.shape[:2], *((length - 1) * step + k - sum(pad) for length, step, k, pad in sides)]
    y = x.new_zeros(math.prod(shape)).scatter(0, indices.flatten(), x.flatten()).reshape(shape)
    if output_shape is None:
        return y
    return F.pad(y, torch_order([(0, wanted - have) for have, wanted in zip(shape, ints(output_shape), strict=True)]))


@operator("Col2Im", since=18, host=("image_shape", "block_shape"))
def col2im(
    x: Tensor,
    image_shape: Ints,
    block_shape: Ints,
    *,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """x [N, C * *block, L] -> [N, C, *image], where the L blocks that overlap are added."""
    image, block = ints(image_shape), ints(block_shape)
    view = window(image, block, strides, dilations, pads, "NOTSET")
    padded = [length + sum(pad) for length, pad in zip(image, view.pads, strict=True)]
    index = torch.zeros((), dtype=torch.int64, device=x.device)
    for axis, length in enumerate(padded):
        steps = torch.arange(block[axis], device=x.device) * view.dilations[axis]
        starts = torch.arange(0, length - view.reach[axis] + 1, view.strides[axis], device=x.device)
        position = starts + steps.reshape(-1, *(1,) * len(block))  # [block of this axis, ..., blocks along it]
        index = index[..., None] * length + position.reshape(len(steps), *(1,) * (len(block) - 1), len(starts))
    y = x.new_zeros((len(x), x.shape[1] // math.prod(block), math.prod(padded)))
    y = y.index_add(2, index.flatten(), x.reshape(len(x), y.shape[1], -1)).unflatten(-1, padded)
    return F.pad(y, torch_order([(-begin, -end) for begin, end in view.pads]))
