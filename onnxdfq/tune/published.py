"""Training without data as published: what each method draws, its losses, and its settings as data.

    method   images                                       L_G                              L_Q
    gdfq     of one class: E[y] * z, z ~ N(0, 1)          CE(t, y) + 0.1 L_BNS             T^2 KL(t, q at T) + CE(q, y)
    qimera   of one class or, 40 %, between several       the same                         the same
    adadfq   as gdfq                                      L_margin + L_balance + L_BNS     -T^2 entropy((t - q) / T)

t, q: logits of the model and of its quantized copy, y: labels or shares of classes. L_BNS = mean over normalizations of
|m - mu|^2 / C + |v - sigma^2|^2 / C, with m, v the batch's mean and variance of what the normalization reads.

GDFQ: Xu et al., ECCV 2020. Qimera: Choi et al., NeurIPS 2021. AdaDFQ: Qian et al., CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from onnxdfq.images.generators import adadfq, gdfq
from onnxdfq.images.generators.gdfq import MANY_CLASSES, LabelledDrawing
from onnxdfq.images.generators.qimera import SuperposedDrawing
from onnxdfq.images.generators.training import Drawing
from onnxdfq.images.losses import cross_entropy
from onnxdfq.images.source import Subject
from onnxdfq.recipes import PER_EPOCH

Method = Literal["gdfq", "qimera", "adadfq"]
EPOCHS = 400  # of PER_EPOCH iterations
WARMUP_SHARE = 10  # a shortened schedule warms up as long as the published one, but for no more than a tenth of it


@dataclass(frozen=True)
class Settings:
    """batch: images of an iteration. rate_generator, rate_student: of Adam and of SGD, a tenth from each of the
    ``milestones`` on. warmup: epochs in which only the generator learns; milestones, observed are epochs too, of 400.
    observed: in which the ranges of activations follow the images; 0 keeps those of the plan. temperature: T.
    statistics: the weight of L_BNS. width: channels of the generator."""

    method: Method
    batch: int
    rate_student: float
    warmup: int
    milestones: tuple[int, ...] = (100, 200, 300)
    temperature: float = 20.0
    statistics: float = 0.1
    rate_generator: float = 1e-3
    observed: int = 4
    width: int = 128


FEW: Mapping[str, Settings] = {  # CIFAR-10 and CIFAR-100, ResNet-20
    "gdfq": Settings("gdfq", 200, 1e-4, 4),
    "qimera": Settings("qimera", 200, 1e-4, 4),
    "adadfq": Settings("adadfq", 16, 1e-4, 4, statistics=1.0),
}
MANY: Mapping[str, Settings] = {  # ImageNet, ResNet-18
    "gdfq": Settings("gdfq", 16, 1e-6, 50),
    "qimera": Settings("qimera", 16, 1e-6, 50),
    "adadfq": Settings("adadfq", 16, 1e-5, 50, (350, 400), 5.0, 1.0),
}


def settings_for(method: Method, classes: int, iterations: int = EPOCHS * PER_EPOCH) -> Settings:
    """The published settings for so many classes, and for the whole schedule or a part of its iterations.

    Ranges of activations are those of the plan where the generator has no time to learn before they are observed: what
    it draws at first reaches far beyond what images do, and they never recover from it.
    """
    found = (MANY if classes > MANY_CLASSES else FEW)[method]
    learned = iterations >= WARMUP_SHARE * PER_EPOCH * found.observed
    return found if learned else replace(found, observed=0)


def drawing(settings: Settings, subject: Subject) -> Drawing:
    """A new generator, with weights from torch's own random numbers."""
    if settings.method == "qimera":
        return SuperposedDrawing(subject, published=True, width=settings.width)
    return LabelledDrawing(subject, published=True, width=settings.width)


def generator_loss(settings: Settings, t: Tensor, answers: Callable[[], Tensor], shares: Tensor) -> Tensor:
    """L_G without L_BNS, of log probabilities [N, K] of the model. answers: gives those of the quantized graph, with
    gradients to the images."""
    if settings.method != "adadfq":
        return cross_entropy(t, shares).mean()
    q = answers()
    return adadfq.margin_loss(t, q) + adadfq.balance_loss(t, q, shares)


def student_loss(settings: Settings, t: Tensor, q: Tensor, shares: Tensor) -> Tensor:
    """L_Q of log probabilities [N, K], which are logits but for a constant that no term minds."""
    if settings.method == "adadfq":
        return adadfq.student_loss(t, q, settings.temperature)
    return gdfq.student_loss(t, q, shares, settings.temperature)


def statistics_loss(inner: Mapping[str, Tensor], statistics: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """L_BNS. inner: tensors [N, C, ...] by name. statistics: their mean and deviation, each [C]."""
    terms = []
    for name, (mean, deviation) in statistics.items():
        values = inner[name].float().transpose(0, 1).flatten(1)
        variance, average = torch.var_mean(values, 1, correction=0)
        terms.append(((average - mean) ** 2).mean() + ((variance - deviation**2) ** 2).mean())
    return torch.stack(terms).mean()
