"""What is in a model, what would be quantized, what not and why: without running it, without torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from onnxdfq.engine.operators import unsupported
from onnxdfq.images.guides import guides
from onnxdfq.model_file import read_model
from passes.base import Skip, run_passes
from passes.canonicalize import CANONICAL, default_opset
from passes.fold_batchnorm import FoldBatchNorm
from passes.integer_forms import INTEGER_FORMS
from passes.placement import WEIGHTED, place
from passes.targets import TARGETS


@dataclass(frozen=True)
class Inspection:
    """operators: how many of each. folded, kept: BatchNormalizations. statistics: of them, how many can lead image
    synthesis. classes: 0 for what is no classifier. targets: name -> layers in integers, activations quantized, skips.
    gradients: empty when the torch engine can run the model, else the first reason why not."""

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


def inspect(path: Path) -> Inspection:
    """Read a model and say what quantize would do with it. Raises OnnxdfqError as read_model does."""
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
        size=path.stat().st_size,
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
            }
            for name, placed in placements.items()
        },
    )
