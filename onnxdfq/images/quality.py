"""How good images are for a model, told by the model alone: no real image is needed.

    statistics = exp(-mismatch)                      mismatch: of channel means and deviations with those that training
                                                     left in BatchNormalization, in units of these (images/losses.py);
                                                     without any, with recovered ones of early layers
    classes = I(image; class) / log(min(N, K))       how much an image tells of its class: high where every single
            = (H(mean p) - mean H(p)) / log(...)     answer is sure and all together name many classes
    quality = statistics * classes                   each from 0 to 1; models without classes have the first alone

Noise gets answers that are sure and all the same; drawn images answers that are unsure; images that go beyond what a
photograph does to the model lose in statistics what they gain in classes. The second term is the logarithm of the
Inception score (Salimans et al., NeurIPS 2016) with the model itself in Inception's place, per attainable nat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxdfq.engine.ort import Session, tapped
from onnxdfq.images.channel_sums import ChannelSums
from onnxdfq.images.recovered import early
from onnxdfq.images.source import Subject
from onnxdfq.verify.agreement import is_scores, log_probabilities

MOST = 128  # images that are looked at
AT_ONCE = 4 * 224 * 224  # pixels


@dataclass(frozen=True)
class Quality:
    """Both from 0 to 1; None where the model has none. known: whether statistics are those of training."""

    statistics: float | None
    classes: float | None
    known: bool

    @property
    def value(self) -> float | None:
        """One number to rank images for one model by; None where there is nothing to judge them by."""
        parts = [part for part in (self.statistics, self.classes) if part is not None]
        return float(np.prod(parts)) if parts else None

    def describe(self) -> str:
        """One line."""
        if self.value is None:
            return "not known: the model has neither statistics nor classes to judge images by"
        whose = "training's" if self.known else "recovered"
        words = [f"{whose} statistics {self.statistics:.2f}"] if self.statistics is not None else []
        words += [f"classes {self.classes:.2f}"] if self.classes is not None else []
        return f"{self.value:.2f} of 1 ({', '.join(words)})"


def quality(subject: Subject, pixels: np.ndarray) -> Quality:
    """Of images [N, C, H, W], channels as the model orders them."""
    into = subject.into
    known = bool(subject.guides.statistics)
    statistics = subject.guides.statistics or early(subject)
    statistics = {name: each for name, each in statistics.items() if name not in into.images}
    session = Session(tapped(subject.model, statistics))
    size = into.batch or max(1, AT_ONCE // (into.height * into.width))
    some = pixels[: max(MOST // size, 1) * size]
    parts = [subject.domain.to_model(some[k : k + size], into) for k in range(0, len(some) // size * size or 1, size)]
    sums = ChannelSums(statistics)
    answers = []
    for feeds in into.feeds(parts):
        outputs = session.run(feeds)
        sums.add(outputs)
        if subject.guides.classes:
            answers.append(next(iter(outputs.values())))
    return Quality(_closeness(sums.moments(), statistics) if statistics else None, _told(answers), known)


def _closeness(
    moments: Mapping[str, tuple[np.ndarray, np.ndarray]], statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> float:
    """exp of minus the mismatch of means and deviations."""
    terms = []
    for name, (own, spread) in moments.items():
        mean, std = statistics[name]
        terms.append((((own - mean) / std) ** 2).mean() + ((spread / std - 1) ** 2).mean())
    return float(np.exp(-np.mean(terms)))


def _told(answers: list[np.ndarray]) -> float | None:
    """Of answers [N, K], each for one image, by batches."""
    if not answers or not all(is_scores(each) for each in answers):
        return None
    log = log_probabilities(np.concatenate([each.reshape(len(each), -1) for each in answers]).astype(np.float64))
    share = np.exp(log)
    together = share.mean(0)
    unsure = -(share * log).sum(1).mean()
    spread = -(together * np.log(np.maximum(together, 1e-30))).sum()
    attainable = np.log(min(share.shape))
    return float(np.clip((spread - unsure) / attainable, 0, 1)) if attainable > 0 else None
