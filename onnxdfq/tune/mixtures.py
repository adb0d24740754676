"""Images mixed in pairs, x = s a + (1 - s) b with s between 0 and 1 by chance: what they show lies between two classes.

A model is sure about almost every image that was made for it, and so is its quantized copy: little is left to learn
from. Mixtures leave both less sure (mixup, Zhang et al., ICLR 2018; for distillation Beyer et al., CVPR 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor


def mixed(image: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels [N, C, H, W], every other one by chance mixed with another one of the batch."""
    shape = (len(image), *[1] * (image.ndim - 1))
    share = torch.rand(shape, generator=generator)
    share = torch.where(torch.rand(shape, generator=generator) < 0.5, share, torch.ones(()))
    partner = torch.randperm(len(image), generator=generator)
    return torch.lerp(image[partner.to(image.device)], image, share.to(image.device))
