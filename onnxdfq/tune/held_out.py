"""How far a quantized graph is from the model on images that nothing learns from: data-free, so it may choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onnxdfq.images.losses import log_probabilities
from onnxdfq.images.teacher import Teacher

Answers = Callable[[Tensor], Tensor]  # pixels 0..1, whole batches of the model -> scores [N, K]


@dataclass(frozen=True)
class Agreement:
    """top1: share of equal top-1 in percent. kl: mean KL(model || quantized) in nats, or NaN. Without classes kl
    is the squared error in units of the output's variance, and top1 the share of that which is right, in percent."""

    top1: float
    kl: float


class HeldOut:
    """pixels: [N, C, H, W] 0..255, held against what ``teacher`` makes of them."""

    @torch.no_grad()
    def __init__(self, teacher: Teacher, pixels: np.ndarray, *, classes: bool = True) -> None:
        self._classes = classes
        count, size = len(pixels), teacher.size
        whole = pixels[np.arange(-(-count // size) * size) % count]  # the last batch is filled up from the beginning
        self._count = count
        self._batches = (torch.from_numpy(whole).float() / 255).to(teacher.device).split(size)
        self._expected = self._of_all(lambda image: teacher(image)[0][0])

    @torch.no_grad()
    def agreement(self, answers: Answers) -> Agreement:
        """Of a quantized graph, which is called without gradients."""
        expected, computed = self._expected, self._of_all(answers)
        if expected.shape != computed.shape:  # as many rows as were detected, say: nothing to subtract
            return Agreement(0.0, float("inf"))
        if not self._classes:
            error = float((expected - computed).square().mean() / (expected.var() + 1e-12))
            return Agreement(100 * max(0.0, 1 - error), error)
        kl = (expected.exp() * (expected - computed)).sum(1).mean()
        top1 = (expected.argmax(1) == computed.argmax(1)).float().mean()
        return Agreement(100 * float(top1), float(kl))

    def _of_all(self, answers: Answers) -> Tensor:
        found = torch.cat([answers(batch).float() for batch in self._batches])[: self._count]
        return log_probabilities(found) if self._classes else found
