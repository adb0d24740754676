"""The fewest layers put back until enough held-out images keep their class, for ``--rollback``.

    d1, d2, ...   layers by the damage that the bits of their weights do alone, the worst first
    f1, f2, ...   layers by how near the network comes with that layer alone in float, the nearest first
    steps:  d1 at 8 bits, d2 at 8 bits, ...  and then  f1 in float, f2 in float, ...
    the least k for which the first k steps are enough, by halving

Weights of few bits are given 8 before anything is put back to float: that costs bytes, and no time. Where activations
have few bits as well 8 for the weights are of little help, and steps begin with float. The f are found where all d have
8 bits, for that is what float has to improve upon. A layer comes with what its
runtime fuses to it: an override keeps the node in float, and the plan is decided anew around it. Agreement rarely falls
with one more step; where it does, halving finds a k that holds, if not the least.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxdfq.calibrate.relief import distances_without
from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.pipeline import WITH_IMAGES, prepare, quantize_prepared
from onnxdfq.run import Run
from onnxdfq.stages.bits import damages
from passes.targets import TARGETS

WIDE = 8  # bits
PROBED = 16  # images; a distance tells more than classes do


@dataclass(frozen=True)
class Step:
    """A layer that gets 8 bits for its weights, or is put back to float."""

    layer: str
    floats: bool

    def override(self) -> Mapping[str, Any]:
        """As a configuration file has it."""
        return {"name": glob.escape(self.layer), "float": True} if self.floats else _bits(self.layer, WIDE)


def _bits(layer: str, bits: int) -> Mapping[str, Any]:
    return {"name": glob.escape(layer), "bits": bits}


def quantize_with_rollback(run: Run, wanted: float) -> Run:
    """``run`` goes through all stages, and through those after the images again with more and more layers put back. The
    run that is returned has ``wanted`` percent of agreement, or came nearest to it; its report lists them."""
    if len(run.options.targets) > 1:
        raise OnnxdfqError("--rollback is for one target", "run it once for each")
    if run.options.plan is not None:
        raise OnnxdfqError("--rollback decides again, --plan has decided", "leave one of them out")
    (target,) = run.options.targets
    prepare(run, WITH_IMAGES)

    def attempt(taken: Sequence[Step], settled: Mapping[str, int] | None = None) -> tuple[Run, float]:
        overrides = [*run.options.overrides, *(_bits(layer, bits) for layer, bits in (settled or {}).items())]
        options = replace(run.options, overrides=(*overrides, *(step.override() for step in taken)))
        if settled:  # a budget would give other layers less for what these get
            options = replace(options, size_budget=None, avg_bits=None)
        made = run.again(options, replace(run.report, notices=list(run.report.notices), targets={}))
        quantize_prepared(made, in_words(taken))
        found = made.report.targets[target].agreement.top1
        if found is None:
            raise OnnxdfqError("the model is no classifier", "--rollback goes by the class that images keep")
        return made, found

    tried = {0: attempt(())}
    best, reached = tried[0]
    if reached >= wanted:
        best.report.rolled_back = {}
        return best
    settled = best.report.targets[target].bits
    with run.progress.stage("order the layers by what bits do"):
        steps = _wider(best, target)
    if steps:
        tried[len(steps)] = attempt(steps, settled)
    widest, reached = tried[len(steps)]
    low, high = 0, len(steps)
    if reached < wanted:
        with run.progress.stage("order the layers by what float gives"):
            steps += _to_float(widest, target)
        low, high = high, len(steps)  # too few, and more than there may be: something has to be left to quantize
    while low + 1 < high:
        middle = (low + high) // 2
        tried[middle] = attempt(steps[:middle], settled)
        low, high = (low, middle) if tried[middle][1] >= wanted else (middle, high)
    # Where nothing was enough, float included, the nearest is taken and not the one with least left in integers
    chosen = high if high in tried else max(tried, key=lambda count: (tried[count][1], -count))
    found, _ = tried[chosen]
    words = ", ".join(f"{share:.1f} % with {in_words(steps[:count])}" for count, (_, share) in sorted(tried.items()))
    found.report.rolled_back = final(steps[:chosen])
    about = f"{in_words(steps[:chosen])}, for {wanted:g} % of agreement on held-out images"
    about += "" if high in tried else ", which nothing reached"
    found.report.notices.insert(0, f"{about}: {words}")
    if chosen and (run.options.size_budget is not None or run.options.avg_bits is not None):
        found.report.notices.insert(1, "the budget of bits holds for the layers that were not put back, not for all")
    return found


def in_words(taken: Sequence[Step]) -> str:
    """How many layers were put back to what."""
    counts = sorted(Counter(final(taken).values()).items())
    return " and ".join(f"{count} put back to {kind}" for kind, count in counts) or "nothing put back"


def final(taken: Sequence[Step]) -> dict[str, str]:
    """What each layer was put back to in the end."""
    return {step.layer: "float" if step.floats else f"{WIDE} bits" for step in taken}


def _wider(run: Run, target: str) -> list[Step]:
    """8 bits for the layers that have fewer, those first to which few bits do most."""
    bits = run.report.targets[target].bits
    most = min(WIDE, TARGETS[target].weight_bits)  # that weights have there at all
    few = [layer for layer in bits if bits[layer] < most and (run.options.act_bits or WIDE) >= WIDE]
    found = damages(run, tuple(few), sorted({bits[layer] for layer in few})) if few else {}
    return [Step(layer, False) for layer in sorted(few, key=lambda layer: -found[layer][bits[layer]])]


def _to_float(run: Run, target: str) -> list[Step]:
    """Float for all layers, those first that bring the network nearest."""
    original, layers = Session(run.original, run.options.device), run.report.targets[target].bits
    batches = run.batches(run.judges.get("mixed", run.held_out)[: run.whole(PROBED)])
    inputs = not TARGETS[target].output_required  # else kernels before a layer in float write codes all the same
    found = distances_without(original, run.results[target], run.model, layers, batches, inputs, run.progress.step)
    return [Step(layer, True) for layer in sorted(found, key=lambda layer: found[layer])]
