"""Who decides, and what that costs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxdfq.dynamic.answers import Answers
from onnxdfq.dynamic.cascade import Cascade
from onnxdfq.dynamic.decide import Outcome, Prices, outcome_of_cascade, outcome_of_router, verdict
from onnxdfq.dynamic.report import LevelReport, about_speed

PRICES = Prices((16.0, 64.0), (1.0, 2.0), by_time=False)
# Four images, of which the cheap level is unsure of two, and wrong about one
SCORES = np.array([[9, 0], [9, 0], [0.1, 0], [0, 0.1]], np.float32)
TRUE = np.array([[9, 0], [9, 0], [0, 9], [0, 9]], np.float32)
ANSWERS = Answers(TRUE, (SCORES, TRUE), probabilities=False)


def outcome(right: float, cost: float) -> Outcome:
    return Outcome(100, (1.0, 0.0), cost, cost, cost, right, 0.0)


def test_a_cascade_pays_for_what_it_asked_in_vain() -> None:
    found = outcome_of_cascade(ANSWERS, ANSWERS.right, Cascade((0, 1), (0.5,)), PRICES)
    assert (found.images, found.right, found.shares) == (4, 100.0, (0.5, 0.5))
    assert found.cost == found.bitops == 16 + 64 / 2
    assert found.milliseconds == 1 + 2 / 2
    assert found.by_lot == pytest.approx(75 + 25 * (48 - 16) / 48)


def test_a_router_pays_for_itself_and_nothing_in_vain() -> None:
    found = outcome_of_router(np.array([0, 0, 1, 1]), ANSWERS.right, (4.0, 0.5), PRICES)
    assert found.right == 100
    assert found.bitops == 4 + (16 + 64) / 2
    assert found.milliseconds == 0.5 + 1.5
    by_time = outcome_of_router(
        np.array([0, 0, 0, 1]), ANSWERS.right, (4.0, 0.5), Prices((16, 64), (1, 2), by_time=True)
    )
    assert by_time.cost == by_time.milliseconds == 0.5 + 1.25


@pytest.mark.parametrize(
    ("router", "better"),
    [
        (outcome(98.0, 10.0), True),
        (outcome(97.0, 10.0), False),
        (outcome(97.0, 1.0), False),
        (outcome(99.0, 10.1), False),
        (None, False),
    ],
)
def test_the_router_has_to_beat_the_cascade_at_no_higher_cost(router: Outcome | None, better: bool) -> None:
    chosen, why = verdict(outcome(97.0, 10.0), router, "nothing to choose")
    assert chosen is better
    assert why.startswith("router" if better else "cascade")
    assert ("nothing to choose" in why) is (router is None)


def level(name: str, milliseconds: float) -> LevelReport:
    return LevelReport(name, 1.0, milliseconds, 100.0, 0.0)


@pytest.mark.parametrize(("times", "said"), [((1, 2), False), ((2, 2), True), ((3, 1, 2), False), ((3, 4, 2), True)])
def test_where_no_level_is_faster_than_the_last_it_is_said(times, said: bool) -> None:
    found = about_speed([level(str(number), float(time)) for number, time in enumerate(times)])
    assert ("buy no time here" in found) is said


def test_shares_that_do_not_add_up_are_still_shares() -> None:
    """Probabilities of few bits."""
    shares = np.array([[0.75, 0.25]], np.float32)
    found = Answers(shares, (shares * 1.1,), probabilities=True)
    assert found.divergence[0, 0] == pytest.approx(0, abs=1e-6)
