"""Small float models with plans for them, as rooms of the tuning take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch

from onnxdfq.emit import with_qdq
from onnxdfq.engine.ort import Session, tapped
from onnxdfq.tune.student import Student
from passes.activation_bits import activation_bits, for_products_alone
from passes.allocate_bits import uniform_bits
from passes.correct_bias import bias_of
from passes.placement import place
from passes.plan import QuantPlan, decide
from passes.targets import TARGETS
from tests.passes.conftest import run
from tests.passes.placements import graph_of


def smooth(count: int, side: int = 8, seed: int = 0) -> np.ndarray:
    """Pixels 0..255 [N, 3, side, side] of images that differ, each in four corners and all that lies between."""
    corners = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return (255 * torch.nn.functional.interpolate(corners, (side, side), mode="bilinear")).round().numpy()


@dataclass
class Planned:
    """A float model with its plan, names of biases, groups that share a scale, and an input to look at."""

    graph: gs.Graph
    model: onnx.ModelProto
    plan: QuantPlan
    biases: frozenset[str]
    groups: Sequence[set[str]]
    x: np.ndarray

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {self.model.graph.input[0].name: self.x.shape}

    def student(self) -> Student:
        student = Student(self.model, self.plan, self.biases, self.shapes, torch.device("cpu"), self.groups)
        student.module.eval()
        return student

    def on_runtime(self, model: onnx.ModelProto, plan: QuantPlan) -> np.ndarray:
        """The first output of the graph that the plan makes of the model, computed as it is written."""
        return run(with_qdq(model, plan), self.x)[0]

    @torch.no_grad()
    def answer(self, student: Student) -> np.ndarray:
        return student.module(torch.from_numpy(self.x))[0].numpy()


def planned(
    text: str,
    bits: int = 4,
    act_bits: int = 4,
    target: str = "ort-cpu",
    *,
    all_layers: bool = False,
    **held: np.ndarray | tuple[int, ...],
) -> Planned:
    """The plan for a graph written as text, with ranges seen on normal random numbers."""
    graph = graph_of(text, **held)
    for node in graph.nodes:  # weights of a size that keeps activations near one
        if node.op in ("Conv", "Gemm", "MatMul"):
            values = node.inputs[1].values
            node.inputs[1].values = values / np.float32(np.sqrt(max(values[0].size, 1)))
    model = onnx.shape_inference.infer_shapes(gs.export_onnx(graph))
    (entry,) = model.graph.input
    x = np.random.default_rng(1).standard_normal([size.dim_value for size in entry.type.tensor_type.shape.dim])
    x = x.astype(np.float32)
    wants = TARGETS[target]
    placement = place(graph, wants)
    widths = activation_bits(graph, placement, act_bits, all_layers=all_layers)
    groups = placement.groups
    computed = [name for name in placement.tensors if name in {o.name for n in graph.nodes for o in n.outputs}]
    seen = Session(tapped(model, computed)).run({entry.name: x}) | {entry.name: x}
    ranges = {name: (float(seen[name].min()), float(seen[name].max())) for name in [*computed, entry.name]}
    placement = for_products_alone(graph, placement, widths, wants)
    plan = decide(graph, ranges, wants, uniform_bits(graph, placement, bits, all_layers=all_layers), placement, widths)
    places = [bias_of(node) for node in graph.nodes if node.op in ("Conv", "Gemm", "MatMul")]
    biases = frozenset(
        each[0].inputs[each[1]].name for each in places if each is not None and each[1] < len(each[0].inputs)
    )
    return Planned(graph, model, plan, biases, groups, x)
