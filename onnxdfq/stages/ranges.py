"""The ranges of activations, observed on the calibration images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnxdfq.calibrate.observers import bounds, default_method
from onnxdfq.calibrate.ranges import observe
from onnxdfq.emit import rounded
from onnxdfq.engine.ort import Session, tapped
from onnxdfq.errors import OnnxdfqError
from onnxdfq.overrides import resolve
from onnxdfq.run import Run
from passes.activation_bits import activation_bits
from passes.paper_placement import place_as_published
from passes.placement import Placement, place
from passes.targets import TARGETS


def calibrate(run: Run) -> None:
    run.overrides = resolve(run.options.overrides, {node.name: node.op for node in run.graph.nodes})
    # Of all targets, not only those asked for: the ranges are kept, and another target can be made from them later.
    wanted: dict[str, int] = {}  # and with the bits that the ranges are for
    for target in TARGETS.values():
        for name, bits in widths_of_activations(run, place(run.graph, target)).items():
            wanted[name] = min(bits, wanted.get(name, bits))
    if run.options.placement == "paper":
        wanted |= widths_of_activations(run, as_published(run))
    tensors = run.graph.tensors()
    inputs = run.into.shapes(1).keys()
    computed = [name for name in sorted(wanted) if name not in inputs and isinstance(tensors[name], gs.Variable)]
    session = Session(tapped(run.model, computed))
    batches = run.batches(run.calibration)

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for done, (feeds, outputs) in enumerate(zip(batches, session.stream(batches), strict=True), 1):
            run.progress.step(done, len(batches))
            yield {name: outputs[name] for name in computed} | feeds

    observed = observe(stream())
    # No image goes beyond the domain, and any may reach its ends.
    for name in observed.keys() & set(run.into.images):
        observed[name].add(np.array([run.domain.low, run.domain.high], np.float32))
    method = run.options.observer
    for name, values in observed.items():
        bits = wanted.get(name, 8)  # inputs of the model are observed in any case
        run.ranges[name] = bounds(values, method or default_method(bits), bits)
    run.ranges = rounded(run.ranges)
    run.report.ranges = run.ranges
    for name in run.options.targets:
        if run.options.placement == "paper":
            run.placements[name] = as_published(run)
            continue
        target = run.options.target(name)
        floats = run.overrides.floats if target.everything else {**_of_unknown_range(run), **run.overrides.floats}
        run.placements[name] = place(run.graph, target, run.ranges, floats)
        if not run.placements[name].weights:
            raise OnnxdfqError(f"nothing is left to quantize for {name}", "let the configuration keep less in float")


def as_published(run: Run) -> Placement:
    """The placement of the papers. Raises OnnxdfqError where they say nothing of what to quantize."""
    try:
        return place_as_published(run.graph, {**_of_unknown_range(run), **run.overrides.floats})
    except ValueError as error:
        raise OnnxdfqError(f"--placement paper: {error}", "give --placement target") from None


def _of_unknown_range(run: Run) -> dict[str, str]:
    """Nodes that compute with sizes and scales from other inputs, and why they stay in float: at another size integers
    would saturate."""
    unknown = {other.name: other.name for other in run.into.others if not other.bounded}  # tensor -> input
    found = {}
    for node in run.graph.nodes if unknown else ():
        reads = [tensor.name for tensor in node.inputs if isinstance(tensor, gs.Variable) and tensor.name]
        source = next((unknown[name] for name in reads if name in unknown), None)
        if source is not None:
            found[node.name] = f"it reads input {source}, whose range in use is not known"
            if all(name in unknown for name in reads):
                unknown |= {tensor.name: source for tensor in node.outputs}
    return found


def widths_of_activations(run: Run, placement: Placement) -> dict[str, int]:
    if run.options.placement == "paper":
        return dict.fromkeys(placement.tensors, run.options.act_bits or 8)
    return activation_bits(run.graph, placement, run.options.act_bits or 8, all_layers=run.options.all_layers)
