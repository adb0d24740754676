"""What is in a model, what would be quantized, what not and why: without running it, without torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from onnxdfq.config import Options
from onnxdfq.engine.operators import unsupported
from onnxdfq.images.guides import guides
from onnxdfq.model_file import read_model, size_on_disk
from onnxdfq.report.allocation import pairing_data
from passes.allocate_bits import paired_bits, uniform_bits
from passes.base import Skip, run_passes
from passes.canonicalize import CANONICAL, default_opset
from passes.fold_batchnorm import FoldBatchNorm
from passes.integer_forms import INTEGER_FORMS
from passes.placement import WEIGHTED, Placement, place
from passes.targets import TARGETS, Target


@dataclass(frozen=True)
class Inspection:
    """operators: how many of each. folded, kept: BatchNormalizations. statistics: of them, how many can lead image
    synthesis. classes: 0 for what is no classifier. targets: name -> layers in integers, activations quantized, skips;
    and, where bits were given, bits by layer, and the pairing or None. gradients: empty when the torch engine can run
    the model, else the first reason why not."""

    model: str
    size: int
    opset: int
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    parameters: int
    operators: dict[str, int]
    layers: int
    folded: int
    kept: tuple[Skip, ...]
    statistics: int
    classes: int
    gradients: str
    targets: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain lists, numbers and text."""
        return asdict(self)


def inspect(path: Path, bits: int | tuple[int, int] | None = None) -> Inspection:
    """Read a model and say what quantize would do with it, and with ``bits`` which layers get how many.

    Raises OnnxdfqError as read_model does, and for bits that quantize would not take.
    """
    decided = None if bits is None else Options(bits=bits).bits
    model = read_model(path)
    graph = gs.import_onnx(model)
    run_passes(graph, CANONICAL)
    canonical = gs.export_onnx(graph)
    led_by, blockers = guides(canonical), unsupported(canonical)
    operators = Counter(node.op for node in graph.nodes)
    folded, *_ = run_passes(graph, [FoldBatchNorm(), *INTEGER_FORMS])
    placements = {name: place(graph, target) for name, target in TARGETS.items()}
    return Inspection(
        model=str(path),
        size=size_on_disk(path),
        opset=default_opset(model),
        inputs={entry.name: list(entry.shape or ()) for entry in graph.inputs},
        outputs={entry.name: list(entry.shape or ()) for entry in graph.outputs},
        parameters=sum(int(each.values.size) for each in graph.tensors().values() if isinstance(each, gs.Constant)),
        operators=dict(operators.most_common()),
        layers=sum(node.op in WEIGHTED for node in graph.nodes),
        folded=folded.changed,
        kept=folded.skips,
        statistics=len(led_by.statistics),
        classes=led_by.classes,
        gradients=blockers[0] if blockers else "",
        targets={
            name: {
                "layers": len(placed.weights),
                "activations": len(placed.tensors),
                "skips": [asdict(skip) for skip in placed.skips],
                **({} if decided is None else _bits(graph, placed, TARGETS[name], decided)),
            }
            for name, placed in placements.items()
        },
    )


def _bits(graph: gs.Graph, placed: Placement, target: Target, bits: int | tuple[int, int]) -> dict[str, Any]:
    """Bits by layer in order of the graph, and the pairing, None where layers are not paired."""
    pairing = None
    if isinstance(bits, int):
        by_weights = uniform_bits(graph, placed, bits)
    else:
        by_weights, found = paired_bits(graph, placed, *bits)
        pairing = pairing_data(found)
    by_layer = {placed.weights[name].layer: min(width, target.weight_bits) for name, width in by_weights.items()}
    return {"bits": by_layer, "pairing": pairing}
