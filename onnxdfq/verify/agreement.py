"""Compare two models on the same batches: top-1 agreement, Kullback-Leibler divergence, SQNR of each output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxdfq.engine.ort import Session


@dataclass(frozen=True)
class Agreement:
    """images: how many were compared. top1: share of equal top-1 in percent, and kl: mean KL(original || quantized) in
    nats; both None where the first output is no vector of scores. sqnr: dB by output, signal to quantization noise.
    kinds: top1 of each kind of image, where there are several."""

    images: int
    top1: float | None
    kl: float | None
    sqnr: dict[str, float]
    kinds: dict[str, float] = field(default_factory=dict)

    @property
    def distance(self) -> float:
        """One number to rank two quantizations of one model by, smaller is closer."""
        return self.kl if self.kl is not None else -float(np.mean(list(self.sqnr.values()) or [0.0]))

    @property
    def error(self) -> float:
        """Standard error of ``top1`` in points, for so many images; an image of each kind is added, so that full
        agreement on few images is not taken for certainty."""
        share = ((self.top1 or 0.0) / 100 * self.images + 1) / (self.images + 2)
        return 100 * float(np.sqrt(share * (1 - share) / (self.images + 2)))

    def in_words(self) -> str:
        """One line."""
        if self.top1 is None:
            return f"no classifier; compared on {self.images} images"
        words = f"{self.top1:.1f} % (+- {self.error:.1f}) of {self.images} images at the same class"
        return f"{words}{self.kinds_in_words}, KL {self.kl:.2g}"

    @property
    def images_in_words(self) -> str:
        """How many images judged, and what each kind of them says."""
        return f"{self.images} images that judge{self.kinds_in_words}"

    @property
    def kinds_in_words(self) -> str:
        """The share of each kind in brackets; empty where there is only one."""
        kinds = ", ".join(f"{kind} {share:.0f} %" for kind, share in self.kinds.items())
        return f" ({kinds})" if kinds else ""


def agreement(
    original: Session, quantized: Session, batches: Mapping[str, Iterable[Mapping[str, np.ndarray]]]
) -> Agreement:
    """Run both models on all batches of all kinds and compare every floating point output."""
    images, equal = Counter[str](), Counter[str]()
    divergence = 0.0
    scored = False
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for kind, feeds in ((kind, feeds) for kind, each in batches.items() for feeds in each):
        expected, computed = original.run(feeds), quantized.run(feeds)
        images[kind] += len(next(iter(feeds.values())))
        for position, (name, values) in enumerate(expected.items()):
            if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
                continue
            if values.shape != computed[name].shape:  # as many rows as were detected, say: nothing to subtract
                continue
            values, other = values.astype(np.float64), computed[name].astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float((values**2).sum())
            noise[name] = noise.get(name, 0.0) + float(((values - other) ** 2).sum())
            if position == 0 and is_scores(values):
                scored = True
                first, second = values.reshape(len(values), -1), other.reshape(len(values), -1)
                equal[kind] += int((first.argmax(1) == second.argmax(1)).sum())
                divergence += kl(first, second)
    several = scored and len(images) > 1
    return Agreement(
        images.total(),
        100 * equal.total() / images.total() if scored else None,
        divergence / images.total() if scored else None,
        {name: decibels(signal[name], noise[name]) for name in signal},
        {kind: 100 * equal[kind] / count for kind, count in images.items()} if several else {},
    )


def is_scores(values: np.ndarray) -> bool:
    """Whether an output [N, K] or [N, K, 1, 1] can be read as scores of K classes."""
    return values.ndim >= 2 and values.shape[1] > 1 and values[0].size == values.shape[1]


def kl(first: np.ndarray, second: np.ndarray) -> float:
    """Sum over samples of KL(first || second), both [N, K] scores or probabilities."""
    p, q = log_probabilities(first), log_probabilities(second)
    return float((np.exp(p) * (p - q)).sum())


def are_probabilities(scores: np.ndarray) -> bool:
    """Whether rows of scores [N, K] are shares that make one."""
    return bool((scores >= 0).all() and np.allclose(scores.sum(1), 1, atol=1e-2))


def log_probabilities(scores: np.ndarray) -> np.ndarray:
    """[N, K] of an output that holds scores or probabilities."""
    if are_probabilities(scores):
        return np.log(np.maximum(scores, 1e-9))
    shifted = scores - scores.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise): 200 where there is no noise, -200 where one of them is no number."""
    if noise == 0:
        return 200.0
    if not np.isfinite(signal) or not np.isfinite(noise):
        return -200.0
    return float(np.clip(10 * np.log10(max(signal, 1e-30) / noise), -200, 200))
