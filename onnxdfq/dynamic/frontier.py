"""What can be had for what cost: single levels, images sent to levels by lot, by a cascade, and by a router.

    images answered rightly
      ^            .--- level 2        lot: the best that a coin between two levels reaches, on the line between them
      |     cascade'  .-'
      |   .'  .- lot -'
      |  level 0
      +----------------------> cost of a mean image

Everything is fitted on synthetic images, for costs from that of the cheapest level to that of the dearest; what comes
of it on others is shown, which is not what was wanted where these are easier or harder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxdfq.dynamic.answers import Answers
from onnxdfq.dynamic.cascade import ROUNDING, Cascade, Wanted, fit

POINTS = 12


def single(costs: Sequence[float], right: np.ndarray) -> list[tuple[float, float]]:
    """(cost, percent) of each level alone. right: [L, N] whether a level answers an image rightly."""
    return [(float(cost), 100 * float(each.mean())) for cost, each in zip(costs, right, strict=True)]


def by_lot(costs: Sequence[float], right: np.ndarray, cost: float) -> float:
    """Percent of the best mixture of levels, drawn without looking at images, that costs ``cost`` or less."""
    points = single(costs, right)
    cost *= 1 + ROUNDING
    found = [share for price, share in points if price <= cost]
    for low, first in points:
        for high, second in points:
            if low <= cost < high:
                found.append(first + (second - first) * (cost - low) / (high - low))
    return max(found, default=0.0)


def prices_between(costs: Sequence[float]) -> list[float]:
    """POINTS costs from the cheapest level's to the dearest one's."""
    return [float(each) for each in np.linspace(min(costs), max(costs), POINTS)]


def cascades(fitting: Answers, costs: Sequence[float]) -> list[Cascade]:
    """One for each of ``prices_between``, without those that are the same."""
    return list(dict.fromkeys(fit(fitting, costs, Wanted(cost=cost)) for cost in prices_between(costs)))
