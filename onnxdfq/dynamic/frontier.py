"""What can be had for what cost: single levels, images sent to levels by lot, and by a cascade.

worth of a mean image
  ^            .--- level 2        lot: the best that a coin between two levels reaches, on the line between them
  |     cascade'  .-'
  |   .'  .- lot -'
  |  level 0
  +----------------------> cost of a mean image
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxdfq.dynamic.answers import Answers
from onnxdfq.dynamic.cascade import Wanted, fit

POINTS = 16


def single(costs: Sequence[float], worth: np.ndarray) -> list[tuple[float, float]]:
    """(cost, percent) of each level alone. worth: [L, N] whether a level answers an image rightly."""
    return [(float(cost), 100 * float(each.mean())) for cost, each in zip(costs, worth, strict=True)]


def by_lot(costs: Sequence[float], worth: np.ndarray, cost: float) -> float:
    """Percent of the best mixture of levels, drawn without looking at images, that costs ``cost`` or less."""
    points = single(costs, worth)
    found = [share for price, share in points if price <= cost]
    for low, first in points:
        for high, second in points:
            if low <= cost < high:
                found.append(first + (second - first) * (cost - low) / (high - low))
    return max(found, default=0.0)


def by_cascade(
    fitted_on: Answers, shown: Answers, costs: Sequence[float], worth: np.ndarray
) -> list[tuple[float, float]]:
    """(cost, percent) of cascades from the cheapest to the dearest: thresholds fitted on some images, and what they
    come to on others, for which ``worth`` is."""
    found = []
    for cost in np.linspace(min(costs), costs[-1], POINTS):
        cascade = fit(fitted_on, costs, Wanted(cost=float(cost)))
        level = cascade.taken(shown.margins)
        found.append(
            (float(cascade.paid(costs, level).mean()), 100 * float(worth[level, np.arange(len(level))].mean()))
        )
    return sorted(set(found))
