"""The cheapest recipe that is good enough, for ``--recipe auto``: one after the other, until one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxdfq.config import Options
from onnxdfq.recipes import CHEAPEST_FIRST
from onnxdfq.run import Run

REAL, SYNTHETIC = 98.0, 90.0  # percent that is good enough, of the user's images and of ours, most of which are harder


def cheapest(run: Callable[[Options], Run], options: Options, wanted: float | None) -> Run:
    """The run of the first of CHEAPEST_FIRST whose top-1 agreement on held-out images is ``wanted`` percent or more for
    every target (None: what is enough for images of their kind), else of the one that came nearest. A notice says what
    was tried.

    Options that only a recipe that learns can take do not reach the others. A model without classes has no top-1: the
    last recipe is taken for it.
    """
    tried: list[tuple[float, str, Run]] = []
    if wanted is None:
        wanted = REAL if options.own_images else SYNTHETIC
    for name in CHEAPEST_FIRST:
        done = run(replace(options.without_learning(), recipe=name) if name != CHEAPEST_FIRST[-1] else options)
        agreements = [target.agreement.top1 for target in done.report.targets.values()]
        known = [each for each in agreements if each is not None]
        tried.append((min(known, default=-1.0), name, done))
        if known and min(known) >= wanted:
            break
    best, chosen, done = max(tried, key=lambda each: (each[0], CHEAPEST_FIRST.index(each[1])))
    words = ", ".join(f"{name} {share:.1f} %" if share >= 0 else f"{name} unknown" for share, name, _ in tried)
    met = f"{wanted:g} % wanted" + ("" if best >= wanted else ", which none reached")
    done.report.notices.insert(0, f"recipe {chosen} chosen by agreement on held-out images: {words}; {met}")
    return done
