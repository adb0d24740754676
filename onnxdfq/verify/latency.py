"""How long models take for one input on this machine, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from onnxdfq.engine.ort import Session

WARM_UP, ROUNDS, SECONDS = 3, 50, 10.0  # rounds, and when to stop before them


def paired_milliseconds(sessions: Sequence[Session], feeds: Mapping[str, np.ndarray], seed: int = 0) -> list[float]:
    """Median of each session. All take turns, in an order that is drawn anew for every round: what slows the machine
    down for a while slows all of them."""
    rng = np.random.default_rng(seed)
    times: list[list[float]] = [[] for _ in sessions]
    began = time.perf_counter()
    for turn in range(WARM_UP + ROUNDS):
        for number in rng.permutation(len(sessions)):
            started = time.perf_counter()
            sessions[number].run(feeds)
            if turn >= WARM_UP:
                times[number].append((time.perf_counter() - started) * 1e3)
        if turn > WARM_UP and time.perf_counter() - began > SECONDS:
            break
    return [float(np.median(each)) for each in times]
