"""Images mixed in pairs, x = s a + (1 - s) b with s between 0 and 1 by chance: what they show lies between two classes.

A model is sure about almost every image that was made for it, and so is its quantized copy: little is left to learn
from, or to judge by. Mixtures leave both less sure (mixup, Zhang et al., ICLR 2018; for distillation Beyer et al., CVPR
2022).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onnxdfq.images.procedural import procedural


def mixed(image: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels [N, C, H, W], every other one by chance mixed with another one of the batch."""
    shape = (len(image), *[1] * (image.ndim - 1))
    share = torch.rand(shape, generator=generator)
    share = torch.where(torch.rand(shape, generator=generator) < 0.5, share, torch.ones(()))
    partner = torch.randperm(len(image), generator=generator)
    return torch.lerp(image[partner.to(image.device)], image, share.to(image.device))


def to_judge_by(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Held-out pixels [N, C, H, W] 0..255, whole numbers; as many in which every other one is a mixture; and as many
    that are drawn. A graph that learns on images of one kind comes nearer to the model on that kind first: what it has
    learned is of use only where others do not pay for it."""
    generator = torch.Generator().manual_seed(seed)
    others = mixed(torch.from_numpy(pixels).float(), generator).round().numpy()
    count, channels, height, width = pixels.shape
    drawn = procedural(count, channels, height, width, np.random.default_rng([seed, *b"judge"]))
    return np.concatenate([each.astype(pixels.dtype) for each in (pixels, others, drawn)])
