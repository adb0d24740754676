"""The finished models beside the original, on images that took no part in making them."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from onnxdfq.engine.ort import SERIALIZED_LIMIT, Session, cuda_driver
from onnxdfq.report.allocation import average_in_words, pairing_data, size_in_words
from onnxdfq.report.report import TargetReport
from onnxdfq.report.stored import weights_in_words
from onnxdfq.run import Run
from onnxdfq.verify.agreement import agreement
from onnxdfq.verify.kernels import kernels
from onnxdfq.verify.labelled import accuracy
from passes.placement import WEIGHTED
from passes.stored_weights import stored_weights
from passes.targets import TARGETS


def verify(run: Run, target: str) -> None:
    original = Session(run.original, run.options.device)
    held_out = run.to_judge()
    session = _loaded(run, run.results[target], target)
    closeness = agreement(original, session, held_out)
    correction = "not asked for"
    if target in run.corrected:  # kept only if images that took no part in it say that it helps
        candidate = _loaded(run, run.corrected[target], target)
        corrected = agreement(original, candidate, held_out)
        kept = corrected.distance <= closeness.distance
        measure = "KL" if closeness.kl is not None else "negative SQNR"
        correction = (
            f"{'kept' if kept else 'dropped'}: {measure} on held-out images without it {closeness.distance:.4g}, "
            f"with it {corrected.distance:.4g}"
        )
        if kept:
            run.results[target], session, closeness = run.corrected[target], candidate, corrected
    plan, shapes = run.plans[target], run.into.shapes(run.into.batch or 1)
    entry = TargetReport(
        file="",
        size=run.results[target].ByteSize(),
        layers=len(run.layers(target)),
        of=sum(node.op in WEIGHTED for node in run.graph.nodes),
        plan=plan,
        agreement=closeness,
        provider=session.provider,
        bias_correction=correction,
        weights=weights_in_words(run.results[target], plan),
        bits={
            site.layer: plan.tensors[name].bits
            for name, site in run.placements[target].weights.items()
            if name in plan.tensors
        },
        rounding=run.rounding[target],
        learning=run.learning.get(target, ""),
        kernels=kernels(run.results[target], shapes) if TARGETS[target].kernels_shown else None,
    )
    if run.labelled is not None:
        pixels, labels = run.labelled
        batches = run.batches(run.domain.from_rgb(pixels))
        if run.report.accuracy is None:
            run.report.accuracy = accuracy(original, batches, labels)
        entry.accuracy = accuracy(session, batches, labels)
    if target in run.bits:
        _say_how_bits_were_chosen(run, target, entry)
    run.report.targets[target] = entry


def _say_how_bits_were_chosen(run: Run, target: str, entry: TargetReport) -> None:
    chosen, options = run.bits[target], run.options
    entry.sensitivity = chosen.damages
    entry.pairing = pairing_data(chosen.pairing) if chosen.pairing else None
    if options.size_budget is not None:
        entry.budget = size_in_words(options.size_budget, stored_weights(gs.import_onnx(run.results[target])))
    elif options.avg_bits is not None:
        tensors = run.graph.tensors()
        elements = {site.layer: tensors[name].values.size for name, site in run.placements[target].weights.items()}
        entry.budget = average_in_words(options.avg_bits, elements, entry.bits, chosen.free)


def _loaded(run: Run, model: onnx.ModelProto, target: str) -> Session:
    """The model checked and loaded; a fallback from CUDA to the CPU is written down."""
    if model.ByteSize() < SERIALIZED_LIMIT:
        onnx.checker.check_model(model)
    session = Session(model, run.options.device, as_written=not TARGETS[target].kernels_shown)
    notice = "CUDA did not load into ONNX Runtime: verified on the CPU"
    fallback = run.options.device == "auto" and cuda_driver() and session.provider == "CPUExecutionProvider"
    if fallback and notice not in run.report.notices:
        run.report.notices.append(notice)
    return session
