"""The fewest layers put back to float until enough held-out images keep their class, for ``--rollback``.

    layers by the damage that their bits do alone, the worst first:   d1 >= d2 >= ... >= dn
    the least k with  agreement(d1 .. dk in float) >= wanted,  by halving 1..n

Images that were inverted keep their class whatever is done to them, so that mixtures of them and drawn images judge
beside them (tune/mixtures.py). A layer comes with what its runtime fuses to it: an override keeps the node in float,
and the plan is decided anew around it. Agreement rarely falls with one layer more in float; where it does, halving
finds a k that holds, if not the least.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.pipeline import WITH_IMAGES, prepare, quantize_prepared
from onnxdfq.run import Run
from onnxdfq.stages.bits import damages
from onnxdfq.tune.mixtures import to_judge_by
from onnxdfq.verify.agreement import agreement


def quantize_with_rollback(run: Run, wanted: float) -> Run:
    """``run`` goes through all stages, and through those after the images again with more and more layers in float. The
    run that is returned has ``wanted`` percent of agreement, or as much as float layers give; its report lists them."""
    if len(run.options.targets) > 1:
        raise OnnxdfqError("--rollback is for one target", "run it once for each")
    if run.options.plan is not None:
        raise OnnxdfqError("--rollback decides again, --plan has decided", "leave one of them out")
    (target,) = run.options.targets
    prepare(run, WITH_IMAGES)
    judges = to_judge_by(run.held_out, run.options.seed)
    original = Session(run.original, run.options.device)

    def attempt(floats: Sequence[str]) -> tuple[Run, float]:
        entries: list[Mapping[str, Any]] = [{"name": glob.escape(name), "float": True} for name in floats]
        options = replace(run.options, overrides=(*run.options.overrides, *entries))
        made = run.again(options, replace(run.report, notices=list(run.report.notices), targets={}))
        quantize_prepared(made, f"{len(floats)} layers in float" if floats else "")
        result = Session(made.results[target], run.options.device)
        found = agreement(original, result, run.batches(judges, first=len(run.training))).top1
        if found is None:
            raise OnnxdfqError("the model is no classifier", "--rollback goes by the class that images keep")
        return made, found

    tried = {0: attempt(())}
    best, reached = tried[0]
    if reached >= wanted:
        best.report.rolled_back = []
        return best
    worst_first = _by_damage(best, target)
    low, high = 0, len(worst_first)  # too few, and more than there may be: something has to be left to quantize
    while low + 1 < high:
        middle = (low + high) // 2
        tried[middle] = attempt(worst_first[:middle])
        low, high = (low, middle) if tried[middle][1] >= wanted else (middle, high)
    high = min(high, max(tried))
    found, _ = tried[high]
    words = ", ".join(f"{share:.1f} % with {count}" for count, (_, share) in sorted(tried.items()))
    found.report.rolled_back = worst_first[:high]
    about = f"{high} layers put back to float for {wanted:g} % of agreement on {len(judges)} images of three kinds"
    found.report.notices.insert(0, f"{about}: {words}")
    return found


def _by_damage(run: Run, target: str) -> list[str]:
    bits = run.report.targets[target].bits
    found = damages(run, tuple(bits), sorted(set(bits.values())))
    return sorted(bits, key=lambda layer: -found[layer][bits[layer]])
