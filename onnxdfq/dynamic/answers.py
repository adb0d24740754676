"""What all levels answer for the same images, beside the float model: what deciding is fitted on, and judged by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxdfq.dynamic.confidence import margins
from onnxdfq.engine.ort import Session
from onnxdfq.verify.agreement import log_probabilities


@dataclass(frozen=True)
class Answers:
    """original: scores [N, K] of the float model. levels: the same of each level, the cheapest first. probabilities:
    whether scores are such already."""

    original: np.ndarray
    levels: tuple[np.ndarray, ...]
    probabilities: bool

    @cached_property
    def right(self) -> np.ndarray:
        """[L, N]: whether a level names the same class as the float model."""
        return np.stack([each.argmax(1) == self.original.argmax(1) for each in self.levels])

    @cached_property
    def divergence(self) -> np.ndarray:
        """[L, N] KL(float model || level) in nats."""
        p = self._log(self.original)
        return np.stack([(np.exp(p) * (p - self._log(each))).sum(1) for each in self.levels])

    def _log(self, scores: np.ndarray) -> np.ndarray:
        if not self.probabilities:
            return log_probabilities(scores)
        shares = np.maximum(scores, 1e-9)  # of few bits they need not add up to one
        return np.log(shares / shares.sum(1, keepdims=True))

    @cached_property
    def margins(self) -> np.ndarray:
        """[L, N] of each level, see confidence.py."""
        return np.stack([margins(each, probabilities=self.probabilities) for each in self.levels])


def ask(
    original: Session, levels: Sequence[Session], batches: Iterable[Mapping[str, np.ndarray]], *, probabilities: bool
) -> Answers:
    """Run all batches through the float model and all levels; first outputs alone are kept."""
    found: list[list[np.ndarray]] = [[] for _ in range(len(levels) + 1)]
    for feeds in batches:
        for kept, session in zip(found, (original, *levels), strict=True):
            scores = next(iter(session.run(feeds).values()))
            kept.append(scores.reshape(len(scores), -1))
    first, *others = (np.concatenate(each) for each in found)
    return Answers(first, tuple(others), probabilities)
