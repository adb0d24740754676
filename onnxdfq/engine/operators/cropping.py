"""CenterCropPad."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.spatial import torch_order
from onnxdfq.engine.operators.values import Ints, ints


@operator("CenterCropPad", since=18, host=("shape",))
def center_crop_pad(x: Tensor, shape: Ints, *, axes: list[int] | None = None) -> Tensor:
    """x cut, or padded with zeros, on both sides of the ``axes`` (all when missing), to ``shape``."""
    pads = [(0, 0)] * x.ndim
    for axis, wanted in zip(range(x.ndim) if axes is None else axes, ints(shape), strict=True):
        missing = wanted - x.shape[axis]
        # Of an odd number the smaller half goes to the beginning, padded or cut.
        before = missing // 2 if missing > 0 else -(-missing // 2)
        pads[axis] = (before, missing - before)
    return F.pad(x, torch_order(pads))
