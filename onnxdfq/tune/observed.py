"""Quantizers of the papers on training without data (GDFQ, Qimera, AdaDFQ): their scales are observed, not learned.

    weights       scale = the least at which nothing of a channel is clipped, found anew from the weights at every call
    activations   the same for the means of the batches' minimum and maximum, gathered at first and then left alone

    y = clamp(round(x / s), low, high) s           dy/dx = 1 everywhere, s is a constant

The papers quantize weights by minimum and maximum, with a zero-point for each channel. Here they are symmetric, for
integer kernels want that: it is the one departure. Activations after a Relu are the same.

Training goes on in the weights W that stood before BatchNormalization was folded, W' = a W with a = gamma / sigma:
steps and weight decay are those of the papers then, whose networks are not folded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from onnxdfq.tune.student import Student
from passes.weight_scales import SMALLEST_SCALE

KEPT = 0.9  # of what earlier batches have shown (exponential moving average)
NO_GAIN = 1e-6  # of the largest: channels that a normalization has switched off


def fake_quantize(x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """x on the grid, with the gradient of x itself. scale broadcasts against x."""
    with torch.no_grad():
        error = torch.div(x, scale).round_().clamp_(low, high).mul_(scale).sub_(x)
    return x + error


class ObservedWeights(nn.Module):
    """The weights of a layer; arguments are those of LearnedWeights. A scale that the plan raised above what the
    weights need, for a bias that would not fit otherwise, is not fallen below."""

    def __init__(self, weights: Tensor, scale: Tensor, axis: int | None, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self._others = [each for each in range(weights.ndim) if each != axis]
        self.gain: Tensor
        self.register_buffer("gain", torch.ones([1] * weights.ndim))
        self.values = nn.Parameter(weights.clone())
        needed = self._needed(weights)
        planned = scale.reshape(needed.shape)
        self.floor: Tensor
        smallest = torch.full_like(planned, SMALLEST_SCALE)
        self.register_buffer("floor", torch.where(planned > 1.001 * needed, planned, smallest))

    @torch.no_grad()
    def unfold(self, gain: Tensor, axis: int) -> None:
        """Train W instead of gain * W. gain: of each output channel, [O], which ``axis`` counts."""
        shape = [-1 if each == axis else 1 for each in range(self.values.ndim)]
        known = torch.where(gain.abs() > NO_GAIN * gain.abs().max(), gain, torch.ones_like(gain))
        self.values.copy_(self.folded() / known.reshape(shape))
        self.gain = known.reshape(shape)

    def folded(self) -> Tensor:
        """The weights as the layer has them, in float."""
        return self.values * self.gain

    @property
    def scale(self) -> Tensor:
        with torch.no_grad():
            return torch.maximum(self._needed(self.folded()), self.floor)

    def forward(self) -> Tensor:
        return fake_quantize(self.folded(), self.scale, self.low, self.high)

    def _needed(self, weights: Tensor) -> Tensor:
        largest, least = weights.amax(self._others, keepdim=True), weights.amin(self._others, keepdim=True)
        return torch.maximum(largest / self.high, least / self.low)


class ObservedRange(nn.Module):
    """The quantizer of an activation; arguments are those of LearnedRange. It keeps the scale and the zero-point of the
    plan until it is told to observe; then the scale follows what it sees."""

    def __init__(self, scale: float, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.observing = False
        self.begin: Tensor
        self.seen: Tensor
        self.batches: Tensor
        self.register_buffer("begin", torch.tensor(scale))
        self.register_buffer("seen", torch.zeros(2))  # weighted sums of minimum and maximum
        self.register_buffer("batches", torch.zeros(()))  # the weights that they have, 1 - KEPT^t after t batches

    @property
    def scale(self) -> Tensor:
        least, largest = self.seen / self.batches.clamp_min(1e-12)
        needed = torch.maximum(
            largest / self.high if self.high else torch.zeros_like(largest),
            least / self.low if self.low else torch.zeros_like(least),
        )
        return torch.where(self.batches > 0, needed.clamp_min(SMALLEST_SCALE), self.begin)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # under autocast half precision would round to the wrong side
        if self.observing:
            self._observe(x.detach())
        return fake_quantize(x, self.scale, self.low, self.high)

    def _observe(self, x: Tensor) -> None:
        self.seen.mul_(KEPT).add_((1 - KEPT) * torch.stack(x.aminmax()))
        self.batches.mul_(KEPT).add_(1 - KEPT)


class ObservedStudent(Student):
    """A Student with these quantizers."""

    of_weights, of_range = ObservedWeights, ObservedRange
    weights: dict[str, ObservedWeights]  # type: ignore[assignment]
    ranges: dict[str, ObservedRange]  # type: ignore[assignment]

    def observe(self, observing: bool) -> None:
        """Let scales of activations follow what comes by from now on, or keep them."""
        for each in self.ranges.values():
            each.observing = observing

    @torch.no_grad()
    def share(self, groups: Iterable[Collection[str]]) -> None:
        """Give tensors that share a scale all that was seen of any of them."""
        for group in groups:
            members = [self.ranges[name] for name in sorted(group) if name in self.ranges]
            if members:
                seen = torch.stack([each.seen for each in members])
                union = torch.stack([seen[:, 0].min(), seen[:, 1].max()])
                for each in members:
                    each.seen.copy_(union)
