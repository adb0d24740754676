"""What a layer reads to compute one number of its output: a patch, here as a row.

    x [N, C, H, W], kernel 3x3     ->     rows [count, groups, C / groups * 9]

Rows come from positions drawn by chance, as neighbours say much the same; padding reads as zeros.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.layer_kernels import groups_of

LAYERS = ("Conv", "Gemm", "MatMul")


def patches(layer: gs.Node, values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows [about ``count``, groups, D] of ``values``, the input of ``layer``, in the order of ``kernels_of``.

    The layer is one of LAYERS. Equal generators and shapes give equal positions.
    """
    if layer.op != "Conv":
        rows = values.reshape(-1, values.shape[-1])
        chosen = rng.choice(len(rows), count, replace=False) if len(rows) > count else slice(None)
        return rows[chosen][:, None]
    batch, channels, *sizes = values.shape
    kernel = layer.inputs[1].shape[2:]
    rank = len(kernel)
    strides, dilations = layer.attrs.get("strides", [1] * rank), layer.attrs.get("dilations", [1] * rank)
    begins, ends = _pads(layer, sizes, kernel, strides, dilations)
    steps = [
        (size + begin + end - dilation * (taps - 1) - 1) // stride + 1
        for size, begin, end, dilation, taps, stride in zip(
            sizes, begins, ends, dilations, kernel, strides, strict=True
        )
    ]
    positions = math.prod(steps)
    chosen = rng.choice(positions, min(positions, -(-count // batch)), replace=False)
    at = np.unravel_index(chosen, steps)
    inside = np.ones((len(chosen), *kernel), bool)
    index: list[np.ndarray] = []
    for axis in range(rank):
        taps = np.arange(kernel[axis]) * dilations[axis] - begins[axis]
        along = at[axis].reshape(-1, *[1] * rank) * strides[axis] + taps.reshape(
            [-1 if k == axis else 1 for k in range(rank)]
        )
        inside &= (along >= 0) & (along < sizes[axis])
        index.append(np.clip(along, 0, sizes[axis] - 1))
    where: tuple[Any, ...] = (slice(None), slice(None), *np.broadcast_arrays(*index))
    found = values[where]  # [N, C, positions, k..]
    found = found * inside if not inside.all() else found
    groups = groups_of(layer)
    found = np.moveaxis(found.reshape(batch, groups, channels // groups, len(chosen), -1), 3, 1)
    return found.reshape(batch * len(chosen), groups, -1)


def _pads(
    layer: gs.Node, sizes: list[int], kernel: tuple[int, ...], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each axis."""
    rank, auto = len(kernel), layer.attrs.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        pads = [0] * 2 * rank if auto == "VALID" else layer.attrs.get("pads", [0] * 2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    begins, ends = [], []
    for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + dilation * (taps - 1) + 1 - size)
        less, more = total // 2, total - total // 2
        begins.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return begins, ends
