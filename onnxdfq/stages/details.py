"""What the page shows beside the report: noise and sensitivity of each layer, clipping, latency on this machine."""

from __future__ import annotations

from onnxdfq.engine.ort import Session
from onnxdfq.report.allocation import SHOWN_AT
from onnxdfq.run import Run
from onnxdfq.stages.bits import damages
from onnxdfq.verify.clipping import clipping
from onnxdfq.verify.latency import paired_milliseconds
from onnxdfq.verify.tensors import tensor_noise
from passes.placement import WEIGHTED
from passes.plan import reach
from passes.targets import TARGETS

IMAGES = 4  # of 224x224; all tensors of a batch are in memory at once


def measure_details(run: Run, target: str) -> None:
    """For the targets that are asked for a page."""
    options = run.options
    if not options.details:
        return
    entry, plan, result = run.report.targets[target], run.plans[target], run.results[target]
    batches = run.batches(run.held_out[: run.whole(max(run.affordable(8 * IMAGES) // 8, 1))])
    noise = tensor_noise(run.model, result, batches, options.device)
    entry.noise = [each for each in noise if each.op in WEIGHTED]
    known = {tensor.name for tensor in run.graph.tensors().values()}
    reaches = {name: reach(plan.tensors[name]) for name in plan.readers if name in known and name in plan.tensors}
    entry.clipping = clipping(run.model, reaches, batches, options.device)
    if entry.sensitivity is None:
        entry.sensitivity = damages(run, tuple(entry.bits), sorted({*entry.bits.values(), SHOWN_AT}))
    if TARGETS[target].kernels_shown:  # else this machine says nothing of the target's speed
        sessions = [Session(model, options.device) for model in (run.original, result)]
        before, after = paired_milliseconds(sessions, run.batches(run.held_out[: run.whole(1)])[0], options.seed)
        entry.milliseconds = (before, after)
