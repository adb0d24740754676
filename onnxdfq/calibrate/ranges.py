"""What is kept of a tensor while images stream by: its exact minimum and maximum, and a histogram.

The histogram covers [-R, R]; when a value falls outside, R doubles and bins merge two by two, so that no second look
at earlier images is needed and memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

BINS = 4096  # even, and divisible by four for the merging
SAMPLES = 1 << 16  # values per tensor and batch that enter the histogram; minimum and maximum see all


@dataclass
class Observed:
    """One tensor. ``counts`` [BINS] over [-limit, limit]."""

    low: float = np.inf
    high: float = -np.inf
    limit: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Take in the values of one batch. Infinities and NaN are no values."""
        flat = values.reshape(-1)
        low, high = float(flat.min(initial=np.inf)), float(flat.max(initial=-np.inf))
        if not (np.isfinite(low) and np.isfinite(high)):
            flat = flat[np.isfinite(flat)]
            if not flat.size:
                return
            low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if self.limit == 0.0:
            self.limit = 2.0 ** np.ceil(np.log2(max(largest, 1e-30) * 1.0001))
        while largest > self.limit:
            self._widen()
        stride = max(1, flat.size // SAMPLES)
        sample = flat[::stride]
        places = ((sample + self.limit) * (BINS / (2 * self.limit))).astype(np.int32)
        np.minimum(places, BINS - 1, out=places)
        self.counts += np.bincount(places, minlength=BINS)

    def _widen(self) -> None:
        merged = np.zeros(BINS, np.int64)
        merged[BINS // 4 : -BINS // 4] = self.counts.reshape(-1, 2).sum(1)
        self.counts, self.limit = merged, self.limit * 2

    def centers(self) -> np.ndarray:
        """The middle of each bin, [BINS]."""
        return (np.arange(BINS) + 0.5) * (2 * self.limit / BINS) - self.limit


Ranges = dict[str, Observed]


def observe(batches: Iterable[Mapping[str, np.ndarray]]) -> Ranges:
    """Ranges of every floating point tensor in a stream of {name: values}."""
    ranges: Ranges = {}
    for batch in batches:
        for name, values in batch.items():
            if values.dtype.kind == "f":
                ranges.setdefault(name, Observed()).add(values)
    return ranges
