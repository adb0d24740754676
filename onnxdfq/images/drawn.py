"""Procedural images as a source: nothing of the model enters but the size of its input."""

from __future__ import annotations

import numpy as np

from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.procedural import procedural
from onnxdfq.images.source import Batch, OnStep, Subject, batch_size


class Procedural:
    """Coloured noise, dead leaves, gradients, figures: see images/procedural.py."""

    steps = 0
    about = "procedural"

    def __init__(self, subject: Subject) -> None:
        self._into = subject.into
        self.size = batch_size(subject.into)

    def make(self, seed: int, shard: int, on_step: OnStep = lambda done, total, loss: None) -> Batch:
        """See Source."""
        return Batch(drawn(self._into, self.size, seed, shard))


def drawn(into: ModelInput, count: int, seed: int, shard: int) -> np.ndarray:
    """Procedural images [count, C, H, W] for this input: those of shard number ``shard``."""
    rng = np.random.default_rng([seed, shard, *b"images"])
    return procedural(count, into.channels, into.height, into.width, rng)


def starts(subject: Subject, count: int, seed: int, shard: int) -> np.ndarray:
    """Images [count, C, H, W] for a source to begin with: those that the user has, in turn, else procedural ones."""
    if subject.given is None:
        return drawn(subject.into, count, seed, shard)
    return subject.given[np.arange(shard * count, (shard + 1) * count) % len(subject.given)].astype(np.float32)
