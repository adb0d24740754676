"""How long a training is."""

from __future__ import annotations

import pytest

from onnxdfq.tune import length
from onnxdfq.tune.length import Length


class Clock:
    """One on which iterations take the seconds given, the last of them again and again."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.seconds, self.iterations = 0.0, list(seconds), 0

    def perf_counter(self) -> float:
        return self.now

    def iteration(self) -> None:
        self.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        self.iterations += 1


@pytest.mark.parametrize(
    ("seconds", "each", "expected"),
    [(100, (5.0, 1.0), 93), (100, (1.0, 0.5), 196), (7.5, (5.0, 1.0), 1), (3, (1.0,), 1), (0, (1.0,), 1)],
)
def test_seconds_are_as_many_iterations_as_are_left_after_timing_them(monkeypatch, seconds, each, expected) -> None:
    clock = Clock(*each)
    monkeypatch.setattr(length, "time", clock)
    assert Length(0, seconds).with_each(clock.iteration) == expected
    assert clock.iterations == 3


def test_a_number_of_iterations_is_not_timed() -> None:
    assert Length(7, 100.0).with_each(lambda: pytest.fail("timed")) == 7
