"""One option for each item, so that what they cost stays within a budget and the damage is the least possible.

    minimise  sum of damage[item][option]       subject to  sum of cost[item][option] <= budget

Items are added one after the other. Of the partial choices only those are kept that no other beats in both sums:

    cost    0            3   5   8          6   8  10  11  13  16     all sums
    damage  0     ->     9   4   1    ->   18  13   8  10   5   2     11 is out: 10 costs less and does less damage

which is exact (Nemhauser and Ullmann, Discrete dynamic programming and capital allocation, Management Science 1969).
Where more than STATES remain, as many of them are kept, evenly from cheap to dear.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

STATES = 1 << 13  # the error of thinning is about the budget over so many


def allocate(
    costs: Mapping[str, Mapping[int, int]], damages: Mapping[str, Mapping[int, float]], budget: int
) -> dict[str, int]:
    """The option of each item of ``costs``, by name. damages: finite, for every option that has a cost.

    Raises ValueError when even the cheapest options together cost more than ``budget``.
    """
    remaining = sum(min(options.values()) for options in costs.values())
    if remaining > budget:
        raise ValueError(f"a budget of {budget} is below {remaining}, the least that is possible")
    cost, damage = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[str, np.ndarray, np.ndarray]] = []  # item, the state before, the option taken
    for item, options in costs.items():
        remaining -= min(options.values())
        names = np.array(list(options))
        sums = (cost[:, None] + np.array(list(options.values()), np.int64)).reshape(-1)
        harm = (damage[:, None] + np.array([damages[item][option] for option in options])).reshape(-1)
        kept = _unbeaten(sums, harm, budget - remaining)
        steps.append((item, kept // len(names), names[kept % len(names)]))
        cost, damage = sums[kept], harm[kept]
    chosen: dict[str, int] = {}
    state = len(cost) - 1  # sorted by cost, and so, from high to low, by damage
    for item, before, taken in reversed(steps):
        chosen[item] = int(taken[state])
        state = int(before[state])
    return {item: chosen[item] for item in costs}


def _unbeaten(cost: np.ndarray, damage: np.ndarray, limit: int) -> np.ndarray:
    """Places of those within the limit that nobody beats in both, by rising cost; at most STATES of them."""
    order = np.lexsort((damage, cost))
    order = order[cost[order] <= limit]
    falling = damage[order]
    order = order[np.append(True, falling[1:] < np.minimum.accumulate(falling)[:-1])]
    if len(order) > STATES:
        order = order[np.linspace(0, len(order) - 1, STATES).astype(np.int64)]
    return order
