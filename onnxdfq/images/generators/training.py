"""A generator trained in front of the model, as a source of images.

Each shard has a generator of its own, trained from the shard's seed on: steps of Adam on whatever loss the method has,
a batch of codes in, a batch of images out, the model's scores and inner statistics to judge them by. The shard's images
are drawn the way those of training were, in batches of the same size and normalized by the batch: it is whole batches
that the generator learned to give the right statistics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from onnxdfq.images.losses import log_probabilities, roughness, statistics_mismatch
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.source import Batch, OnStep, Subject, batch_size, shard_seed
from onnxdfq.images.teacher import Teacher

RATE, BETAS = 1e-2, (0.5, 0.999)  # the published rate is a tenth of it, for tens of thousands of steps
# Weights of what any image should be. Published are 0.1 (GDFQ, Qimera) and 1 (AdaDFQ), but of plain squared differences
# of means and variances; here all layers count alike, in units of their own deviation.
STATISTICS = 5.0
SMOOTHNESS = 1.0  # where the model keeps no statistics
LEAST_BATCH = 16  # statistics of fewer images say little, and AdaDFQ compares the images of a batch
PIXELS = 256 * 32 * 32  # in a shard, but for the two limits:
FEWEST, MOST = 48, 256  # images
FULL_WIDTH, LEAST_WIDTH = 64, 32  # channels of the generator for images of 32x32 and for large ones


class Drawing(nn.Module, ABC):
    """A generator together with what makes its codes."""

    @abstractmethod
    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images [count, C, H, W] in 0..1, and the shares of classes [count, K] that they are to have."""


class TrainedSource(ABC):
    """A Source whose images come from generators; what a method adds is the drawing and the loss.

    steps: of training, per shard. size: images in a shard, whole batches.
    """

    method: str

    def __init__(self, subject: Subject, *, steps: int) -> None:
        self.subject = subject
        least = subject.into.batch or batch_size(subject.into)
        self.batch = least * -(-LEAST_BATCH // least)
        wanted = int(np.clip(PIXELS // (subject.into.height * subject.into.width), FEWEST, MOST))
        self.size, self.steps = self.batch * -(-wanted // self.batch), steps
        statistics = len(subject.guides.statistics)
        led = [f"{statistics} BatchNormalization statistics"] if statistics else []
        led += [f"{subject.guides.classes} classes"]
        self.about = (
            f"from generators ({self.method}), one for {self.size} images, trained on {subject.device} "
            f"in {steps} steps, led by {' and '.join(led)}"
        )

    @abstractmethod
    def drawing(self) -> Drawing:
        """A new generator, with weights from torch's own random numbers."""

    @abstractmethod
    def loss(self, image: Tensor, log: Tensor, shares: Tensor, prior: Tensor) -> Tensor:
        """What training lowers. image: 0..1. log: the model's log probabilities [N, K]. shares: that were wanted.
        prior: what it costs that the batch is not as any image should be, 0 at best."""

    def make(self, seed: int, shard: int, on_step: OnStep = lambda done, total, loss: None) -> Batch:
        """See Source."""
        number = shard_seed(seed, shard)
        with torch.random.fork_rng(devices=[]):  # a module's first weights have no other source of random numbers
            torch.manual_seed(number)
            drawing = self.drawing()
        drawing.to(self.teacher.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        random = torch.Generator().manual_seed(number)
        self._train(drawing, random, on_step)
        with torch.no_grad():
            parts = [drawing.draw(self.batch, random) for _ in range(self.size // self.batch)]
        pixels = torch.cat([255 * image for image, _ in parts]).round().cpu().numpy()
        return Batch(np.ascontiguousarray(pixels), torch.cat([shares for _, shares in parts]).cpu().numpy())

    @cached_property
    def teacher(self) -> Teacher:
        """The model; made when it is needed first, as images from a cache need none."""
        return Teacher(self.subject)

    def judged(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The model's log probabilities [N, K] and inner statistics tensors, for any whole number of its batches."""
        outputs, inner = self.teacher(image)
        return log_probabilities(outputs[0]), inner

    def _train(self, drawing: Drawing, random: torch.Generator, on_step: OnStep) -> None:
        optimizer = torch.optim.Adam(drawing.parameters(), lr=RATE, betas=BETAS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.steps, 1))
        for step in range(self.steps):
            image, shares = drawing.draw(self.batch, random)
            log, inner = self.judged(image)
            loss = self.loss(image, log, shares, self._prior(image, inner))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            on_step(step + 1, self.steps, float(loss.detach()))

    def _prior(self, image: Tensor, inner: Mapping[str, Tensor]) -> Tensor:
        if self.teacher.statistics:
            return STATISTICS * statistics_mismatch(inner, self.teacher.statistics)
        return SMOOTHNESS * roughness(image)


def width_for(into: ModelInput) -> int:
    """Channels of the generator: half of the published 128 for small images, fewer for large ones, as its work grows
    with the pixels and would be many times that of the model."""
    return int(np.clip(FULL_WIDTH * 32 / np.sqrt(into.height * into.width), LEAST_WIDTH, FULL_WIDTH)) // 2 * 2
