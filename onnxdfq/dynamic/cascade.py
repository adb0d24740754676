"""Ask the cheapest level first, and a dearer one where it is not sure: nothing is learned but thresholds.

    level 0 -> margin >= threshold 0 ?  yes: its answer      no: level 1 -> margin >= threshold 1 ?  ...  last level

An image has paid for all levels that it went through, so a level in the middle may cost more than it saves: which ones
are asked at all is part of what is fitted. Of all cascades that keep as many synthetic images at the class of the float
model as wanted, the one that costs least is taken; or of all that cost no more than wanted, the one that keeps most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from onnxdfq.dynamic.answers import Answers

CANDIDATES = {0: 0, 1: 256, 2: 48, 3: 16}  # thresholds that are tried, by how many have to be found
ROUNDING = 1e-9  # a mean of equal costs is not quite that cost
NEVER = 2.0  # a threshold that no margin reaches


@dataclass(frozen=True)
class Cascade:
    """levels: that are asked, in order, the cheapest first. thresholds: one for each of them but the last; margins are
    0 to 1."""

    levels: tuple[int, ...]
    thresholds: tuple[float, ...]

    def taken(self, margins: np.ndarray) -> np.ndarray:
        """[N]: at which level each image ends. margins: [L, N]."""
        level = np.full(margins.shape[1], self.levels[-1])
        for number, threshold in reversed(list(zip(self.levels[:-1], self.thresholds, strict=True))):
            level[margins[number] >= np.float32(threshold)] = number
        return level

    def paid(self, costs: Sequence[float], level: np.ndarray) -> np.ndarray:
        """[N]: costs of all levels that an image went through to the one where it ends."""
        so_far = np.zeros(len(costs))
        so_far[list(self.levels)] = np.cumsum([costs[number] for number in self.levels])
        return so_far[level]


@dataclass(frozen=True)
class Wanted:
    """agreement: share of images, in percent, that shall have the class of the float model; or cost: of a mean image,
    in the unit of the costs. One of both is None."""

    agreement: float | None = None
    cost: float | None = None


def fit(answers: Answers, costs: Sequence[float], wanted: Wanted) -> Cascade:
    """Where nothing reaches what is wanted: the agreement that is nearest, or the least cost."""

    def worth(cascade: Cascade) -> tuple[float, ...]:
        level = cascade.taken(answers.margins)
        share = 100 * float(answers.right[level, np.arange(len(level))].mean())
        cost = float(cascade.paid(costs, level).mean())
        if wanted.cost is not None:
            return (min(wanted.cost * (1 + ROUNDING) - cost, 0.0), share, -cost)
        return (min(share - (wanted.agreement or 0.0), 0.0), -cost)

    return max(_candidates(answers, len(costs)), key=worth)


def _candidates(answers: Answers, count: int) -> Iterator[Cascade]:
    for size in range(1, count + 1):
        steps = np.linspace(0, 1, CANDIDATES[size - 1])
        for levels in combinations(range(count), size):
            tried = [np.unique(np.quantile(answers.margins[number], steps)).tolist() for number in levels[:-1]]
            for thresholds in product(*([0.0, *each, NEVER] for each in tried)):
                yield Cascade(levels, thresholds)
