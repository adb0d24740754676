"""Chance changes of a batch of images that their content survives: what an image shows shall not hang on single
pixels in single places."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_CROP = 0.5  # of the area


def augmented(image: Tensor, generator: torch.Generator, *, crops: bool) -> Tensor:
    """Pixels [N, C, H, W], all moved alike by up to a 28th of their side and every other time flipped; with ``crops``
    every other time enlarged, too, from at least half of their area (IntraQ, Zhong et al., CVPR 2022, section 3.2)."""
    height, width = image.shape[2:]
    reach = max(1, min(height, width) // 28)
    dy, dx = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    image = torch.roll(image, (dy, dx), (2, 3))
    if torch.rand((), generator=generator) < 0.5:
        image = image.flip(3)
    if crops and torch.rand((), generator=generator) < 0.5:
        share = SMALLEST_CROP + (1 - SMALLEST_CROP) * float(torch.rand((), generator=generator))
        rows, columns = max(1, round(height * share**0.5)), max(1, round(width * share**0.5))
        top = int(torch.randint(height - rows + 1, (), generator=generator))
        left = int(torch.randint(width - columns + 1, (), generator=generator))
        part = image[:, :, top : top + rows, left : left + columns]
        image = F.interpolate(part, (height, width), mode="bilinear", align_corners=False)
    return image
