"""Where the codes of a layer's weights may lie, one scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Where codes may lie: real = (code - zero_point) * scale, both [O]; low <= code <= high."""

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int

    def codes(self, kernels: np.ndarray) -> np.ndarray:
        """[O, ...] as real-valued codes, neither rounded nor clipped."""
        return kernels / _column(self.scale, kernels) + _column(self.zero_point, kernels)

    def part(self, channels: slice) -> Grid:
        """The grid of some of the output channels."""
        return Grid(self.scale[channels], self.zero_point[channels], self.low, self.high)

    def reals(self, codes: np.ndarray) -> np.ndarray:
        """What codes [O, ...] stand for."""
        return (codes - _column(self.zero_point, codes)) * _column(self.scale, codes)


def nearest(kernels: np.ndarray, grid: Grid) -> np.ndarray:
    """The nearest code of each weight, half to even; codes [O, I, K]."""
    return np.clip(np.rint(grid.codes(kernels)), grid.low, grid.high)


def _column(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1, *[1] * (like.ndim - 1))
