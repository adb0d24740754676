"""Mean and deviation of each channel of tensors, while batches stream by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np


class ChannelSums:
    """Of the tensors named, channels on axis 1."""

    def __init__(self, names: Iterable[str]) -> None:
        self._sums = {name: (np.zeros(()), np.zeros(())) for name in names}
        self._batches = 0

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Take in one batch; all batches count alike."""
        for name, (first, second) in self._sums.items():
            channels = np.moveaxis(values[name], 1, 0).reshape(values[name].shape[1], -1).astype(np.float64)
            self._sums[name] = (first + channels.mean(1), second + np.square(channels).mean(1))
        self._batches += 1

    def moments(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation [C] by name."""
        found = {}
        for name, (first, second) in self._sums.items():
            mean = first / self._batches
            found[name] = (mean, np.sqrt(np.maximum(second / self._batches - mean**2, 0)))
        return found
