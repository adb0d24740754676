"""How many steps and images: by effort, or by what fits into the time that the user gives."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

from onnxdfq.images.source import Subject
from onnxdfq.images.sources import Kind

EFFORTS = range(1, 6)
PROBE = 2  # steps that are timed, after as many to warm up


@dataclass(frozen=True)
class Schedule:
    """steps: of each shard. images: how many are made."""

    steps: int
    images: int


def within(seconds: float, kind: Kind, subject: Subject, images: int, processes: int) -> Schedule:
    """The most steps that ``seconds`` allow for so many images, shared by so many processes. Never less than half of
    what the least effort takes: if even that takes too long, there are fewer images, but a shard for each process."""
    began = time.perf_counter()
    source = kind.build(subject, PROBE)
    source.make(0, 0)
    built = time.perf_counter()
    ticks: list[float] = []
    source.make(0, 0, lambda done, total, loss: ticks.append(time.perf_counter()))
    ended = time.perf_counter()
    step = min(later - earlier for earlier, later in pairwise(ticks))
    aside = max(ended - built - PROBE * step, 0.0)  # drawing what to begin with, and images from what was trained
    once = max(built - began - (ended - built), 0.0)  # what the source did before its first step, and will do again
    left = seconds - (ended - began) - once
    turns = -(-images // (source.size * processes))
    least, most = max(kind.steps[0] // 2, 1), kind.steps[-1]
    steps = int((left / turns - aside) / step)
    if steps < least:
        steps = least
        turns = min(turns, max(1, int(left / (aside + least * step))))
    return Schedule(min(steps, most), min(images, turns * processes * source.size))
