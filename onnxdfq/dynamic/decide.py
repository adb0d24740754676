"""A cascade or a router: both are fitted on the same synthetic images, and held-out ones choose.

The cascade is the bar. A router has to keep more images at the class of the float model, at no higher cost, its own
included; what it has not shown on held-out images it does not get credit for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxdfq.dynamic.answers import Answers
from onnxdfq.dynamic.cascade import ROUNDING, Cascade
from onnxdfq.dynamic.frontier import by_lot


@dataclass(frozen=True)
class Prices:
    """Of one image at each level. by_time: whether milliseconds are traded, or operations on bits."""

    bitops: tuple[float, ...]
    milliseconds: tuple[float, ...]
    by_time: bool

    @property
    def costs(self) -> tuple[float, ...]:
        """Those that are traded."""
        return self.milliseconds if self.by_time else self.bitops


@dataclass(frozen=True)
class Outcome:
    """What a choice comes to on some images. shares: of images by level, 0 to 1. cost: of a mean image, all that it
    paid for, in the unit that is traded; bitops, milliseconds: the same in both. right: percent of images answered
    rightly. by_lot: the same for the best mixture of levels of this cost that does not look at images."""

    images: int
    shares: tuple[float, ...]
    cost: float
    bitops: float
    milliseconds: float
    right: float
    by_lot: float


def outcome_of_cascade(answers: Answers, right: np.ndarray, cascade: Cascade, prices: Prices) -> Outcome:
    """right: [L, N] whether a level answers an image rightly."""
    level = cascade.taken(answers.margins)
    bitops, time = (float(cascade.paid(each, level).mean()) for each in (prices.bitops, prices.milliseconds))
    return _outcome(level, right, bitops, time, prices)


def outcome_of_router(level: np.ndarray, right: np.ndarray, own: tuple[float, float], prices: Prices) -> Outcome:
    """level: [N] what it chose. own: its cost, BitOPs and ms."""
    bitops = np.asarray(prices.bitops)[level].mean() + own[0]
    time = np.asarray(prices.milliseconds)[level].mean() + own[1]
    return _outcome(level, right, float(bitops), float(time), prices)


def _outcome(level: np.ndarray, right: np.ndarray, bitops: float, time: float, prices: Prices) -> Outcome:
    shares = tuple(float((level == number).mean()) for number in range(len(prices.costs)))
    cost = time if prices.by_time else bitops
    share = 100 * float(right[level, np.arange(len(level))].mean())
    return Outcome(len(level), shares, cost, bitops, time, share, by_lot(prices.costs, right, cost))


def verdict(cascade: Outcome, router: Outcome | None, lacking: str) -> tuple[bool, str]:
    """Whether the router decides, and why, in words. lacking: why there is none."""
    if router is None:
        return False, f"cascade: {lacking}"
    words = (
        f"on {cascade.images} held-out images the cascade keeps {cascade.right:.1f} % at the model's class for "
        f"{cascade.cost:.3g}, the router {router.right:.1f} % for {router.cost:.3g}"
    )
    better = router.right > cascade.right and router.cost <= cascade.cost * (1 + ROUNDING)
    return better, f"{'router' if better else 'cascade'}: {words}"
