"""Models that take turns."""

from __future__ import annotations

import time

import numpy as np

from onnxdfq.verify.latency import ROUNDS, WARM_UP, paired_milliseconds


class Slow:
    """A session that takes so many milliseconds."""

    def __init__(self, milliseconds: float) -> None:
        self.milliseconds, self.calls = milliseconds, 0

    def run(self, feeds: dict[str, np.ndarray]) -> None:
        self.calls += 1
        time.sleep(self.milliseconds / 1e3)


def test_medians_are_those_of_each() -> None:
    sessions = [Slow(1), Slow(4)]
    first, second = paired_milliseconds(sessions, {})
    assert 0.9 < first < 3
    assert 3.9 < second < 7
    assert [each.calls for each in sessions] == [WARM_UP + ROUNDS] * 2
