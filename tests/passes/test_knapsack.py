"""The choice is the best one there is, and says so where there is none."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from passes import knapsack
from passes.knapsack import allocate


def problem(seed, items, options, *, dear=100):
    rng = np.random.default_rng(seed)
    names = [f"i{k}" for k in range(items)]
    costs = {name: {int(o): int(rng.integers(0, dear)) for o in range(rng.integers(1, options + 1))} for name in names}
    damages = {name: {o: float(rng.exponential()) for o in each} for name, each in costs.items()}
    least = sum(min(each.values()) for each in costs.values())
    most = sum(max(each.values()) for each in costs.values())
    return costs, damages, int(rng.integers(least, most + 1))


def total(values, chosen):
    return sum(values[name][option] for name, option in chosen.items())


@pytest.mark.parametrize("seed", range(40))
def test_no_other_choice_within_the_budget_does_less_damage(seed):
    costs, damages, budget = problem(seed, items=5, options=4, dear=100 if seed % 2 else 4)
    chosen = allocate(costs, damages, budget)
    assert list(chosen) == list(costs)
    assert total(costs, chosen) <= budget
    everything = (dict(zip(costs, options, strict=True)) for options in product(*costs.values()))
    best = min(total(damages, each) for each in everything if total(costs, each) <= budget)
    assert total(damages, chosen) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_thinned_it_is_nearly_as_good(seed, monkeypatch):
    costs, damages, budget = problem(seed, items=60, options=5, dear=10**6)
    exact = allocate(costs, damages, budget)
    monkeypatch.setattr(knapsack, "STATES", 1 << 9)
    thinned = allocate(costs, damages, budget)
    assert total(costs, thinned) <= budget
    assert total(damages, thinned) <= 1.05 * total(damages, exact)


def test_a_budget_that_is_just_enough_takes_the_cheapest_and_one_below_none():
    costs, damages = {"a": {2: 4, 8: 16}, "b": {2: 3, 8: 12}}, {"a": {2: 1.0, 8: 0.0}, "b": {2: 1.0, 8: 0.0}}
    assert allocate(costs, damages, 7) == {"a": 2, "b": 2}
    with pytest.raises(ValueError, match="a budget of 6 is below 7, the least that is possible"):
        allocate(costs, damages, 6)


def test_nothing_to_choose():
    assert allocate({}, {}, 0) == {}
    assert allocate({"a": {8: 5}}, {"a": {8: 3.0}}, 5) == {"a": 8}
