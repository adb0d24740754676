"""Several processes that train one network: each works on images of its own, and all take the same step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from onnxdfq.images.ranks import Ranks


def average_gradients(parameters: Iterable[Tensor], ranks: Ranks) -> None:
    """Replace the gradients by their means over all processes; what has none in this one counts as zero."""
    if ranks.count == 1:
        return
    found = list(parameters)
    for each in found:
        if each.grad is None:
            each.grad = torch.zeros_like(each)
    average([each.grad for each in found if each.grad is not None], ranks)


@torch.no_grad()
def average(tensors: Sequence[Tensor], ranks: Ranks) -> None:
    """Replace tensors of one type and device, the same ones in every process, by their means over all processes."""
    if ranks.count == 1 or not tensors:
        return
    import torch.distributed as dist

    together = torch.cat([each.flatten() for each in tensors])  # one message instead of hundreds
    dist.all_reduce(together)
    together /= ranks.count
    for each, mean in zip(tensors, together.split([each.numel() for each in tensors]), strict=True):
        each.copy_(mean.view_as(each))
