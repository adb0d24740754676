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
from passes.placement import Placement, place
from passes.targets import TARGETS


def calibrate(run: Run) -> None:
    run.overrides = resolve(run.options.overrides, {node.name: node.op for node in run.graph.nodes})
    # Of all targets, not only those asked for: the ranges are kept, and another target can be made from them later.
    wanted: dict[str, int] = {}  # and with the bits that the ranges are for
    for target in TARGETS.values():
        for name, bits in widths_of_activations(run, place(run.graph, target)).items():
            wanted[name] = min(bits, wanted.get(name, bits))
    tensors = run.graph.tensors()
    computed = [name for name in sorted(wanted) if name != run.into.name and isinstance(tensors[name], gs.Variable)]
    session = Session(tapped(run.model, computed))
    batches = run.batches(run.calibration)

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for done, (feeds, outputs) in enumerate(zip(batches, session.stream(batches), strict=True), 1):
            run.progress.step(done, len(batches))
            yield {name: outputs[name] for name in computed} | feeds

    observed = observe(stream())
    # No image goes beyond the domain, and any may reach its ends.
    if run.into.name in observed:
        observed[run.into.name].add(np.array([run.domain.low, run.domain.high], np.float32))
    method = run.options.observer
    for name, values in observed.items():
        bits = wanted.get(name, 8)  # the input of the model is observed in any case
        run.ranges[name] = bounds(values, method or default_method(bits), bits)
    run.ranges = rounded(run.ranges)
    run.report.ranges = run.ranges
    for name in run.options.targets:
        run.placements[name] = place(run.graph, run.options.target(name), run.ranges, run.overrides.floats)
        if not run.placements[name].weights:
            raise OnnxdfqError(f"nothing is left to quantize for {name}", "let the configuration keep less in float")


def widths_of_activations(run: Run, placement: Placement) -> dict[str, int]:
    return activation_bits(run.graph, placement, run.options.act_bits or 8, all_layers=run.options.all_layers)
