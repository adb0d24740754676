"""Which tensors are quantized, and who reads them so. Pure: the graph is only looked at.

Weighted layers come first: their inputs are wanted in integers, and on runtimes that need it their outputs, after the
activation that the quantizer absorbs. From there quantization spreads, to a fixed point, into operators that profit:

    Conv -> Relu -> [q] -> MaxPool -> [q, same scale] -> Conv        a data mover between integers keeps the scale
    Conv -> [q] -> Add <- [q] <- Relu                                an Add of a layer's output joins
    MatMul -> Add <- Add                                             ... of a matrix product does not
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Skip
from passes.targets import Target

RULE = "placement"
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class WeightSite:
    """Constant weights that a layer reads in integers: ``axis`` is that of the output channels, None for one scale."""

    layer: str
    axis: int | None


@dataclass
class Placement:
    """tensors: activation -> why it is quantized. readers: activation -> names of the nodes that read it quantized.
    groups: tensors that share one scale. weights: constant -> its site. skips: layers left in float."""

    tensors: dict[str, str] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    groups: list[set[str]] = field(default_factory=list)
    weights: dict[str, WeightSite] = field(default_factory=dict)
    skips: list[Skip] = field(default_factory=list)

    def want(self, tensor: gs.Tensor, why: str, reader: str | None = None) -> None:
        self.tensors.setdefault(tensor.name, why)
        self.readers.setdefault(tensor.name, set()).update([reader] if reader else [])

    def share_scale(self, tensors: Iterable[gs.Tensor]) -> None:
        merged = {tensor.name for tensor in tensors}
        apart = []
        for group in self.groups:
            if group & merged:
                merged |= group
            else:
                apart.append(group)
        self.groups = [*apart, merged]


def place(graph: gs.Graph, target: Target) -> Placement:
    """Decide for every float tensor of a canonical graph whether ``target`` should see it in integers."""
    return _Placing(graph, target).run()


class _Placing:
    def __init__(self, graph: gs.Graph, target: Target) -> None:
        self.graph = graph
        self.target = target
        self.outputs = {tensor.name for tensor in graph.outputs}
        self.placed = Placement()
        self.taken: set[str] = set()  # nodes that run in integers
        self.from_layer: set[str] = set()  # tensors that a layer in integers has just written

    def run(self) -> Placement:
        for node in self.graph.nodes:
            if self.target.rules.get(node.op) == "weighted":
                self._layer(node)
            elif node.op in WEIGHTED:
                self._skip(node, f"{self.target.name} has no integer kernel for {node.op}")
        while self._spread():
            pass
        if self.target.every_reader:
            tensors = self.graph.tensors()
            for name in self.placed.tensors:
                self.placed.readers[name] = {reader.name for reader in tensors[name].outputs}
        return self.placed

    def _skip(self, node: gs.Node, reason: str) -> None:
        self.placed.skips.append(Skip(node.name, RULE, reason))

    # -- layers with weights

    def _layer(self, node: gs.Node) -> None:
        reason = self._objection(node)
        if reason:
            self._skip(node, reason)
            return
        weight = node.inputs[1]
        axis = None if node.op in self.target.per_tensor_weights else weight_axis(node)
        self.placed.weights[weight.name] = WeightSite(node.name, axis)
        self._take(node, [node.inputs[0]])
        written = self._absorbing_output(node)
        if node.op in CONVOLUTIONS:  # the residual stream of a transformer stays in float
            self.from_layer.add(written.name)
        if node.op in self.target.output_required:
            self.placed.want(written, f"output of {node.name}: its integer kernel writes integers")

    def _objection(self, node: gs.Node) -> str:
        """Why a layer stays in float; empty when it does not."""
        if len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
            return "its second operand is computed, not a constant weight"
        weight = node.inputs[1].values
        if weight.dtype != np.float32:
            return f"its weights are {weight.dtype}, not float32"
        if isinstance(node.inputs[0], gs.Constant):
            return "both operands are constant"
        if weight.ndim < 2 or weight.size == 0:
            return "its weights are not a matrix"
        if node.op == "MatMul" and weight.ndim != 2:
            return "its weights differ from sample to sample (more than two axes)"
        if node.op == "Gemm" and node.attrs.get("transA", 0):
            return "its activation is transposed (transA)"
        if node.op == "ConvTranspose" and node.attrs.get("group", 1) > 1:
            return "a grouped ConvTranspose is refused by the runtime's parser"
        if not np.isfinite(weight).all():
            return "its weights hold NaN or infinity"
        groups = node.attrs.get("group", 1)
        if node.op == "Conv" and self.target.min_channels and not _enough_channels(weight, groups, self.target):
            return f"few channels ({weight.shape[1] * groups} in, {weight.shape[0]} out): faster in float"
        return ""

    def _take(self, node: gs.Node, reads: list[gs.Tensor]) -> None:
        self.taken.add(node.name)
        for tensor in reads:
            self.placed.want(tensor, f"input of {node.name} ({node.op})", node.name)

    def _absorbing_output(self, node: gs.Node) -> gs.Tensor:
        """What a node writes, seen after the activation that its quantizer stands in for."""
        written = node.outputs[0]
        if (
            len(written.outputs) == 1
            and written.name not in self.outputs
            and written.outputs[0].op in self.target.absorbs
        ):
            return written.outputs[0].outputs[0]
        return written

    # -- everything that may join

    def _spread(self) -> bool:
        """One round over the graph; True when it changed anything."""
        before = (len(self.placed.tensors), len(self.taken), sum(map(len, self.placed.groups)))
        wanted_later = self._wanted_later()
        for node in self.graph.nodes:
            kind = self.target.rules.get(node.op)
            if kind == "elementwise" and node.name not in self.taken:
                self._elementwise(node)
            elif kind in ("concat", "unary", "same-scale"):
                self._carry(node, kind, wanted_later)
        return before != (len(self.placed.tensors), len(self.taken), sum(map(len, self.placed.groups)))

    def _wanted_later(self) -> set[str]:
        """Tensors that reach, through data movers and unary operators alone, somebody who reads integers."""
        wanted = set(self.placed.tensors)
        for node in reversed(self.graph.nodes):
            movable = self.target.rules.get(node.op) in ("concat", "unary", "same-scale")
            if movable and any(tensor.name in wanted for tensor in node.outputs):
                wanted.update(tensor.name for tensor in self._data(node))
        return wanted

    @staticmethod
    def _data(node: gs.Node) -> list[gs.Tensor]:
        """The inputs of a node that carry data: all of a Concat's, the first of the others'."""
        return list(node.inputs) if node.op == "Concat" else list(node.inputs[:1])

    def _elementwise(self, node: gs.Node) -> None:
        if len(node.inputs) != 2 or any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
            return
        branches = [t for t in node.inputs if t.name in self.from_layer and t.name not in self.outputs]
        if self.target.skip_branch_only:
            branches = [tensor for tensor in branches if len(tensor.outputs) == 1]
            if branches:  # of two branches the later one is the main path, whose kernel adds the other
                position = {id(each): index for index, each in enumerate(self.graph.nodes)}
                main = max(branches, key=lambda tensor: position[id(tensor.inputs[0])])
                self._take(node, [tensor for tensor in node.inputs if tensor is not main])
                self.from_layer.add(node.outputs[0].name)
            return
        if branches or all(tensor.name in self.placed.tensors for tensor in node.inputs):
            self._take(node, list(node.inputs))
            written = self._absorbing_output(node)
            self.from_layer.add(written.name)
            self.placed.want(written, f"output of {node.name}: its integer kernel writes integers")

    def _carry(self, node: gs.Node, kind: str, wanted_later: set[str]) -> None:
        tensors, data = self.placed.tensors, self._data(node)
        if not any(tensor.name in wanted_later for tensor in node.outputs):
            return
        if kind == "concat" and self.target.one_scale_concat:
            if any(tensor.name in tensors for tensor in node.outputs):
                self.placed.share_scale([*data, *node.outputs])
            return
        if len(node.outputs) > 1 and node.op != "Split":  # the second one of a MaxPool holds indices
            return
        if any(tensor.name not in tensors or isinstance(tensor, gs.Constant) for tensor in data):
            return
        self._take(node, data)
        for tensor in node.outputs:
            self.placed.want(tensor, f"output of {node.name} ({node.op}) between integers")
        if kind == "same-scale":
            self.placed.share_scale([*data, *node.outputs])


def weight_axis(node: gs.Node) -> int:
    """The axis of a layer's weights that counts its output channels."""
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}[node.op]


def _enough_channels(weight: np.ndarray, groups: int, target: Target) -> bool:
    """Whether TensorRT's integer convolution is worth it (and exists) for these channel counts."""
    into, out = weight.shape[1] * groups, weight.shape[0]
    if min(into, out) >= target.min_channels:
        return True
    if groups > 1:
        return out % 8 == 0 and min(weight.shape[2:]) >= 3
    return (into % 8 == 0 or out % 8 == 0) and max(into, out) >= target.min_channels
