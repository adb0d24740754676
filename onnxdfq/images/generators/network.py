"""The network that draws: from a code to an image.

    code -> Linear -> [width, H/4, W/4] -> norm -> x2 -> Conv -> norm -> LeakyReLU
                                                -> x2 -> Conv -> norm -> LeakyReLU
                                                -> Conv -> Tanh -> norm without scale -> sigmoid

This is the generator that GDFQ (Xu et al., ECCV 2020), Qimera (Choi et al., NeurIPS 2021) and AdaDFQ (Qian et al., CVPR
2023) share. Two things differ from theirs: the first grid is rounded up, so that images of any size can be cut out of
the last one, and a sigmoid follows, so that an image never leaves what 8-bit pixels can show.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN, DEVIATION = 118 / 255, 64 / 255  # of photographs, about, in 0..1
CONTRAST = 1.3  # the sigmoid of that times a standard normal has a deviation of 0.25, as photographs have
WIDE_EPSILON = 0.8  # of the published networks; it keeps channels apart that hardly vary
SLOPE = 0.2


class Generator(nn.Module):
    """Draws images [N, channels, height, width].

    latent: numbers in a code. size: height and width. classes: with more than 0 all normalizations but the last get
    their scale and shift from tables with a row for each class. width: channels of the first grid. bounded: pixels
    0..1; without it numbers of mean 0 and deviation 1 for each colour, with no bounds, as the papers have them.

    The normalizations work by the batch, in training and when sampling: images are only ever good in company.
    """

    def __init__(
        self,
        latent: int,
        channels: int,
        size: tuple[int, int],
        *,
        classes: int = 0,
        width: int = 128,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        self._size, self._bounded = size, bounded
        self._grid = (width, *first_grid(size))
        self.first = nn.Linear(latent, prod(self._grid))
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, width // 2, 3, padding=1)
        self.colours = nn.Conv2d(width // 2, channels, 3, padding=1)
        self.norms = nn.ModuleList(
            ClassNorm(each, classes, epsilon)
            for each, epsilon in ((width, 1e-5), (width, WIDE_EPSILON), (width // 2, WIDE_EPSILON))
        )

    def forward(self, code: Tensor, shares: Tensor) -> Tensor:
        """code: [N, latent]. shares: of classes, [N, K], each row with sum one; read only where there are tables."""
        grid = self.norms[0](self.first(code).unflatten(1, self._grid), shares)
        for convolution, norm in zip((self.middle, self.last), self.norms[1:], strict=True):
            grid = functional.leaky_relu(norm(convolution(_doubled(grid)), shares), SLOPE)
        drawn = _standardized(torch.tanh(self.colours(grid)), 1e-5)[:, :, : self._size[0], : self._size[1]]
        return torch.sigmoid(CONTRAST * drawn) if self._bounded else drawn


def as_pixels(standardized: Tensor) -> Tensor:
    """Pixels 0..1 of what a generator without bounds draws, with the mean and deviation of photographs; some numbers
    leave 0..1. The papers draw what their networks read: photographs of mean 0 and deviation 1."""
    return MEAN + DEVIATION * standardized


def first_grid(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width where the drawing begins, for images of height and width ``size``."""
    return -(-size[0] // 4), -(-size[1] // 4)


class ClassNorm(nn.Module):
    """BatchNormalization by the batch alone. With classes, scale and shift are rows of tables, added up by the shares
    that an image has of each class: one row where it is of one class."""

    def __init__(self, channels: int, classes: int, epsilon: float) -> None:
        super().__init__()
        self.classes, self.epsilon = classes, epsilon
        self.scale = nn.Parameter(torch.ones(max(classes, 1), channels))
        self.shift = nn.Parameter(torch.zeros(max(classes, 1), channels))

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        """x: [N, C, H, W]. shares: [N, classes]."""
        scale, shift = (shares @ self.scale, shares @ self.shift) if self.classes else (self.scale, self.shift)
        return _standardized(x, self.epsilon) * scale[:, :, None, None] + shift[:, :, None, None]


def _standardized(x: Tensor, epsilon: float) -> Tensor:
    return functional.batch_norm(x, None, None, training=True, eps=epsilon)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")
