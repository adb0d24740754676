"""A source without a model: images that say which shard they are of, and a record of what was made."""

from __future__ import annotations

import numpy as np

from onnxdfq.images.source import Batch, OnStep

SHAPE = (3, 4, 5)  # channels, height, width


class Numbered:
    """Batches of ``size`` images [3, 4, 5] of random pixels, and the number of the shard as their label."""

    about = "numbered"

    def __init__(
        self, size: int = 4, steps: int = 3, shape: tuple[int, int, int] = SHAPE, *, shares: bool = False
    ) -> None:
        self.size, self.steps, self.shape, self.shares = size, steps, shape, shares
        self.made: list[int] = []

    def make(self, seed: int, shard: int, on_step: OnStep = lambda done, total, loss: None) -> Batch:
        """See Source."""
        for step in range(self.steps):
            on_step(step + 1, self.steps, 1.0)
        self.made.append(shard)
        pixels = np.random.default_rng([seed, shard]).integers(0, 256, (self.size, *self.shape)).astype(np.float32)
        labels = np.full(self.size, shard)
        return Batch(pixels, np.eye(100, dtype=np.float32)[labels] if self.shares else labels)
