"""Thresholds: which level an image ends at, what it has paid, and how they are fitted."""

from __future__ import annotations

import numpy as np
import pytest

from onnxdfq.dynamic.answers import Answers
from onnxdfq.dynamic.cascade import NEVER, Cascade, Wanted, fit
from onnxdfq.dynamic.confidence import margins
from onnxdfq.dynamic.frontier import by_lot, cascades, single

MARGINS = np.array([[0.9, 0.2, 0.5, 0.1], [0.9, 0.8, 0.3, 0.2], [0.9, 0.9, 0.9, 0.9]], np.float32)


def test_images_end_at_the_first_level_that_is_sure() -> None:
    assert Cascade((0, 1, 2), (0.5, 0.8)).taken(MARGINS).tolist() == [0, 1, 0, 2]
    assert Cascade((0, 1, 2), (0, 0)).taken(MARGINS).tolist() == [0, 0, 0, 0]
    assert Cascade((0, 1, 2), (NEVER, NEVER)).taken(MARGINS).tolist() == [2, 2, 2, 2]
    assert Cascade((0, 2), (0.5,)).taken(MARGINS).tolist() == [0, 2, 0, 2]
    assert Cascade((1,), ()).taken(MARGINS).tolist() == [1, 1, 1, 1]


def test_images_have_paid_for_all_levels_that_they_went_through() -> None:
    costs = (1, 4, 16)
    assert Cascade((0, 1, 2), (0.5, 0.8)).paid(costs, np.array([0, 1, 0, 2])).tolist() == [1, 5, 1, 21]
    assert Cascade((0, 2), (0.5,)).paid(costs, np.array([0, 2, 0, 2])).tolist() == [1, 17, 1, 17]
    assert Cascade((1,), ()).paid(costs, np.array([1, 1])).tolist() == [4, 4]


def test_margins_of_logits_and_of_probabilities_are_the_same() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(margins(logits, probabilities=False), margins(shares, probabilities=True), atol=1e-6)
    assert margins(np.array([[3.0, 3.0]]), probabilities=False)[0] == 0


def answers(count: int = 400) -> Answers:
    """Three levels, noisier the cheaper they are, on images of which some are hard."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(count, 5)) * rng.uniform(0.3, 4, (count, 1))
    noisy = tuple((scores + noise * rng.normal(size=scores.shape)).astype(np.float32) for noise in (0.3, 0.15, 0.02))
    return Answers(scores.astype(np.float32), noisy, probabilities=False)


def part(found: Answers, rows: slice) -> Answers:
    return Answers(found.original[rows], tuple(each[rows] for each in found.levels), found.probabilities)


COSTS = (16.0, 36.0, 64.0)


def of(found: Answers, cascade: Cascade) -> tuple[float, float]:
    """(percent right, mean cost)"""
    level = cascade.taken(found.margins)
    return 100 * float(found.right[level, np.arange(len(level))].mean()), float(cascade.paid(COSTS, level).mean())


def test_a_wanted_agreement_is_met_at_less_than_full_cost() -> None:
    found = answers()
    best = 100 * found.right[-1].mean()
    right, cost = of(found, fit(found, COSTS, Wanted(agreement=best - 1)))
    assert right >= best - 1
    assert cost < 0.8 * COSTS[-1]


def test_a_wanted_cost_is_kept_and_more_of_it_buys_more() -> None:
    found = answers()
    reached = [of(found, fit(found, COSTS, Wanted(cost=cost))) for cost in (16, 30, 50, 64)]
    for (_, cost), wanted in zip(reached, (16, 30, 50, 64), strict=True):
        assert cost <= wanted + 1e-6
    rights = [right for right, _ in reached]
    assert rights == sorted(rights)
    assert rights[-1] > rights[0] + 3


def test_what_nothing_reaches_gives_the_nearest() -> None:
    found = answers()
    right, _ = of(found, fit(found, COSTS, Wanted(agreement=100)))
    assert right >= 100 * found.right[-1].mean() - 1e-9
    _, cost = of(found, fit(found, COSTS, Wanted(cost=1)))
    assert cost == COSTS[0]


def test_a_level_that_is_dear_for_what_it_adds_is_not_asked() -> None:
    found = answers()
    same = Answers(found.original, (found.levels[0], found.levels[0], found.levels[2]), probabilities=False)
    assert 1 not in fit(same, COSTS, Wanted(cost=50)).levels


def test_a_cascade_beats_the_lot() -> None:
    """That is what looking at images is for."""
    found = answers()
    fitting, shown = (part(found, rows) for rows in (slice(0, 200), slice(200, None)))
    curve = [of(shown, cascade) for cascade in cascades(fitting, COSTS)]
    gains = [right - by_lot(COSTS, shown.right, cost) for right, cost in curve if 20 < cost < 45]
    assert gains
    assert min(gains) > 0


def test_lots_lie_between_levels() -> None:
    worth = np.array([[1, 0, 0, 0], [1, 1, 1, 0]])
    assert single((1, 3), worth) == [(1, 25), (3, 75)]
    assert by_lot((1, 3), worth, 2) == pytest.approx(50)
    assert by_lot((1, 3), worth, 9) == 75
    assert by_lot((1, 3), worth, 0.5) == 0
    dominated = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])  # a dear level that is worse
    assert by_lot((1, 3), dominated, 2) == 75


def test_equal_costs_may_be_rounded() -> None:
    """Of milliseconds the mean of equal numbers is not quite that number."""
    cost = 0.1 + 0.2  # whose mean over seven is another number
    mean = float(np.full(7, cost).mean())
    worth = np.ones((2, 7), bool)
    assert by_lot((cost, 3 * cost), worth, min(mean, np.nextafter(cost, 0))) == 100
