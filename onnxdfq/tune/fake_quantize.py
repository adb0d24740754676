"""Quantizers that learn: rounding to codes and back as one call, with gradients for what goes in and for the scale.

    q = clamp(round(x / s), low, high)      y = q s                     codes are counted from the zero-point
    dy/dx = 1 where x / s rounds to low..high, else 0                   straight-through
    dy/ds = q - x / s there, else q                                     LSQ (Esser et al., ICLR 2020, eq. 3)

It is what a QuantizeLinear and its DequantizeLinear compute, an activation's Clip included, at a fraction of the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

INSIDE = 0.3  # of a code's width to each side of it, half of which is the border


class FakeQuantize(torch.autograd.Function):
    """y of x and of a scale that broadcasts against it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
        steps = x / scale
        codes = steps.round().clamp_(low, high)
        ctx.save_for_backward(steps, codes, scale)
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        steps, codes, scale = ctx.saved_tensors
        to_y = gradients[0]
        to_x = to_y * (steps.round() == codes)
        if scale.numel() == 1:
            to_scale = torch.dot(to_y.flatten(), codes.flatten()) - torch.dot(to_x.flatten(), steps.flatten())
        else:
            to_scale = (to_y * codes).sub_(to_x * steps).sum_to_size(scale.shape)
        return to_x, to_scale.reshape(scale.shape), None, None


class LearnedRange(nn.Module):
    """The quantizer of an activation, one scale for all of it.

    low, high: codes, counted from the zero-point. Its parameter is how far the scale has gone from where it began, as
    a logarithm: a scale stays above zero, and steps of a size mean the same for small scales and large ones.
    """

    def __init__(self, scale: float, low: int, high: int) -> None:
        super().__init__()
        self.begin: Tensor
        self.register_buffer("begin", torch.tensor(scale))
        self.low, self.high = low, high
        self.growth = nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        return self.begin * self.growth.exp()

    def follow(self, other: LearnedRange) -> None:
        """Have the scale of another, which begins alike, now and later."""
        self.growth = other.growth

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # under autocast half precision would round to the wrong side
        y: Tensor = FakeQuantize.apply(x, self.scale, self.low, self.high)
        return y


class LearnedWeights(nn.Module):
    """The weights of a layer and their quantizer, one scale for each output channel along ``axis``, or one for all.

    Parameters are the weights in units of the scales they began with, so that steps of a size are the same share of a
    code in every layer, and the growth of each scale as a logarithm.
    """

    def __init__(self, weights: Tensor, scale: Tensor, axis: int | None, low: int, high: int) -> None:
        super().__init__()
        shape = [1] * weights.ndim
        if axis is not None:
            shape[axis] = -1
        self.begin: Tensor
        self.register_buffer("begin", scale.reshape(shape))
        self.low, self.high = low, high
        self.steps = nn.Parameter(weights / self.begin)
        self.growth = nn.Parameter(torch.zeros_like(self.begin))

    @property
    def scale(self) -> Tensor:
        return self.begin * self.growth.exp()

    @torch.no_grad()
    def settle(self) -> None:
        """Move weights that stand near the border of their code's cell, or beyond the last code, inside: codes stay."""
        grown = self.growth.exp()
        codes = (self.steps / grown).round().clamp(self.low, self.high)
        self.steps.copy_(torch.clamp(self.steps / grown, codes - INSIDE, codes + INSIDE) * grown)

    def forward(self) -> Tensor:
        y: Tensor = FakeQuantize.apply(self.steps, self.growth.exp(), self.low, self.high)
        return y * self.begin
