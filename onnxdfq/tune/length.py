"""How long a training is: in iterations, or as many as fit into some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

TIMED = 2  # iterations, after one to warm up


@dataclass(frozen=True)
class Length:
    """iterations, or with 0 as many of them as ``seconds`` allow, at least one."""

    iterations: int
    seconds: float = 0.0

    def with_each(self, iteration: Callable[[], None]) -> int:
        """The iterations, where each takes as long as this one, which is called only if time counts."""
        if self.iterations:
            return self.iterations
        began = time.perf_counter()
        iteration()
        warm = time.perf_counter()
        for _ in range(TIMED):
            iteration()
        ended = time.perf_counter()
        return max(int((self.seconds - (ended - began)) / ((ended - warm) / TIMED)), 1)
