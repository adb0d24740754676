"""GDFQ (Xu et al., "Generative Low-bitwidth Data Free Quantization", ECCV 2020).

    code = E[y] * z                        z ~ N(1, 1), y a class; with many classes code = z, and y enters through
                                           the normalizations of the generator
    L_G  = CE(P(x), y) + L_BNS             P: the model, L_BNS: the statistics of its BatchNormalizations
    L_Q  = T^2 KL(P || Q at T) + CE(Q(x), y)

Published is z ~ N(0, 1), by which a class is told by nothing but the sizes of the numbers in its codes: a generator
takes tens of thousands of steps to hear that. With mean 1 codes of a class lie around E[y], and hundreds will do. And
what the model recognizes with 90 % is left alone: surer than it is of photographs, its activations go where theirs do
not.
"""

from __future__ import annotations

from math import log as ln

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxdfq.images.generators.network import Generator, as_pixels
from onnxdfq.images.generators.training import Drawing, TrainedSource, width_for
from onnxdfq.images.losses import cross_entropy
from onnxdfq.images.source import Subject

MANY_CLASSES = 100  # more than these do not fit into one vector of the code
LATENT = 100
CONTENT = 0.9  # probability of its class that an image is left alone with
TEMPERATURE = 20.0


class LabelledDrawing(Drawing):
    """Images of one class each, by chance. most: how many classes take part; which ones, torch's own random numbers
    say: a generator that draws few images has no use for others, nor the steps to learn them. published: z ~ N(0, 1),
    and images without bounds. width: channels of the generator."""

    def __init__(
        self, subject: Subject, most: int | None = None, *, published: bool = False, width: int | None = None
    ) -> None:
        super().__init__()
        self._published = published
        into, self._classes = subject.into, subject.guides.classes
        self._chosen = torch.randperm(self._classes)[:most]
        many = self._classes > MANY_CLASSES
        self.embedding = None if many else nn.Parameter(torch.randn(self._classes, LATENT))
        self.generator = Generator(
            LATENT, into.channels, (into.height, into.width),
            classes=self._classes if many else 0,
            width=width or width_for(into), bounded=not published,
        )  # fmt: skip

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """See Drawing."""
        device = self.generator.first.weight.device
        labels = self._chosen[torch.randint(len(self._chosen), (count,), generator=random)].to(device)
        code = torch.randn(count, LATENT, generator=random).to(device)
        code = code if self._published else 1 + code
        if self.embedding is not None:
            code = code * functional.embedding(labels, self.embedding)  # not [labels], see Qimera
        shares = functional.one_hot(labels, self._classes).float()
        drawn = self.generator(code, shares)
        return (as_pixels(drawn) if self._published else drawn), shares


class Gdfq(TrainedSource):
    """See the module."""

    method = "GDFQ"

    def drawing(self) -> Drawing:
        """See TrainedSource."""
        return LabelledDrawing(self.subject, self.size)

    def loss(self, image: Tensor, log: Tensor, shares: Tensor, prior: Tensor) -> Tensor:
        """See TrainedSource."""
        return confidence_loss(log, shares) + prior


def confidence_loss(log: Tensor, shares: Tensor) -> Tensor:
    """CE of log probabilities [N, K], less what it has to be for shares [N, K], as far as it is not good enough."""
    own = -torch.special.xlogy(shares, shares).sum(1)
    return torch.relu(cross_entropy(log, shares) - own + ln(CONTENT)).mean()


def student_loss(t: Tensor, q: Tensor, shares: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """L_Q of logits [N, K] of the model and of its quantized copy; the same for Qimera. The divergence is a mean over
    images and classes, as published: with more classes it weighs less."""
    soft, told = (torch.log_softmax(each / temperature, 1) for each in (t, q))
    divergence = functional.kl_div(told, soft, reduction="none", log_target=True).mean()
    return temperature**2 * divergence + cross_entropy(torch.log_softmax(q, 1), shares).mean()
