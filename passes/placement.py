"""Which tensors are quantized, and who reads them so. Pure: the graph is only looked at.

Weighted layers come first: their inputs are wanted in integers, and on runtimes that need it their outputs, after the
activation that the quantizer absorbs. From there quantization spreads, to a fixed point, into operators that profit:

    Conv -> Relu -> [q] -> MaxPool -> [q, same scale] -> Conv        a data mover between integers keeps the scale
    Conv -> [q] -> Add <- [q] <- Relu                                an Add of a layer's output joins
    MatMul -> Add <- Add                                             ... of a matrix product does not
    boxes 0..640 -> Concat <- scores 0..1                            ranges so far apart share no scale: it stays float
    Conv -> [q] -> MaxPool -> [q, same scale] -> Conv                early: where the runtime does not move Q up itself
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Skip
from passes.targets import Target

RULE = "placement"
FAR_APART = 32  # times: what is joined to a range so much wider keeps less than three bits of its own
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CONVOLUTIONS = ("Conv", "ConvTranspose")
CARRYING = ("concat", "unary", "same-scale")  # kinds that join only between others
COMPUTED = "its second operand is computed, not a constant weight"
DATA_INPUTS = {  # how many inputs carry data, where that is not one; None: all of them
    "Concat": None, "Add": 2, "Sub": 2, "Mul": 2, "Div": 2, "MatMul": 2,
    "LayerNormalization": 2, "InstanceNormalization": 2,  # factors, which integer kernels want in integers
}  # fmt: skip


@dataclass(frozen=True)
class WeightSite:
    """Constant weights that a layer reads in integers: ``axis`` is that of the output channels, None for one scale."""

    layer: str
    axis: int | None


@dataclass
class Placement:
    """tensors: activation -> why it is quantized. readers: activation -> names of the nodes that read it quantized.
    groups: tensors that share one scale. weights: constant -> its site. integer: nodes that compute in integers.
    skips: layers left in float."""

    tensors: dict[str, str] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    groups: list[set[str]] = field(default_factory=list)
    weights: dict[str, WeightSite] = field(default_factory=dict)
    integer: set[str] = field(default_factory=set)
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


def place(
    graph: gs.Graph,
    target: Target,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    keep_float: Mapping[str, str] | None = None,
) -> Placement:
    """Decide for every float tensor of a canonical graph whether ``target`` should see it in integers.

    ranges: (low, high) of tensors, once they are known. With them a Concat of ranges far apart stays in float; nothing
    is placed that was not placed without them. keep_float: nodes that shall not read integers, and why.
    """
    return _Placing(graph, target, ranges or {}, keep_float or {}).run()


class _Placing:
    def __init__(
        self,
        graph: gs.Graph,
        target: Target,
        ranges: Mapping[str, tuple[float, float]],
        keep_float: Mapping[str, str],
    ) -> None:
        self.graph = graph
        self.target = target
        self.ranges = ranges
        self.keep_float = keep_float
        self.apart: set[str] = set()  # nodes that join what should not share a scale
        self.outputs = {tensor.name for tensor in graph.outputs}
        self.constants = _constants(graph)
        self.placed = Placement()
        self.from_layer: set[str] = set()  # tensors that a layer in integers has just written
        self.in_integers: set[str] = set()  # tensors that leave their kernel in integers, whoever reads them

    def run(self) -> Placement:
        for node in self.graph.nodes:
            if node.name in self.keep_float:
                self._skip(node, self.keep_float[node.name])
            elif self._kind(node) == "weighted":
                self._layer(node)
            elif node.op in WEIGHTED:
                self._skip(node, f"{self.target.name} has no integer kernel for {node.op}")
        if self.target.weights_only:
            return self.placed
        if self.target.everything:
            self._touch_everything()
        while self._spread():
            pass
        if self.target.every_reader:
            tensors = self.graph.tensors()
            for name in self.placed.tensors:
                in_float = set() if name in self.in_integers else self.keep_float.keys()
                self.placed.readers[name] = {reader.name for reader in tensors[name].outputs} - in_float
        return self.placed

    def _kind(self, node: gs.Node) -> str | None:
        """How the target treats a node; None when it stays in float."""
        return None if node.name in self.keep_float else self.target.kind(node.op, node.attrs.get)

    def _skip(self, node: gs.Node, reason: str) -> None:
        self.placed.skips.append(Skip(node.name, RULE, reason))

    # -- layers with weights

    def _layer(self, node: gs.Node) -> None:
        reason = self._objection(node)
        if reason == COMPUTED and node.op == "MatMul" and self.target.everything:
            return  # a product of two activations
        if reason:
            self._skip(node, reason)
            return
        weight = node.inputs[1]
        axis = None if node.op in self.target.per_tensor_weights else weight_axis(node)
        self.placed.weights[weight.name] = WeightSite(node.name, axis)
        if self.target.weights_only:
            return
        self._take(node, [node.inputs[0]])
        written = self._absorbing_output(node)
        if node.op in CONVOLUTIONS:  # the residual stream of a transformer stays in float
            self.from_layer.add(written.name)
        if node.op in self.target.output_required:
            self._write([written], f"output of {node.name}: its integer kernel writes integers")

    def _objection(self, node: gs.Node) -> str:
        """Why a layer stays in float; empty when it does not."""
        reason = objection(node)
        if reason or node.op != "Conv" or not self.target.min_channels:
            return reason
        weight, groups = node.inputs[1].values, node.attrs.get("group", 1)
        if not _enough_channels(weight, groups, self.target):
            return f"few channels ({weight.shape[1] * groups} in, {weight.shape[0]} out): faster in float"
        return ""

    def _take(self, node: gs.Node, reads: list[gs.Tensor]) -> None:
        self.placed.integer.add(node.name)
        for tensor in reads:
            self.placed.want(tensor, f"input of {node.name} ({node.op})", node.name)

    def _write(self, written: Iterable[gs.Tensor], why: str) -> None:
        for tensor in written:
            self.placed.want(tensor, why)
            self.in_integers.add(tensor.name)

    def _absorbing_output(self, node: gs.Node) -> gs.Tensor:
        """What a node writes, seen after the activation that its quantizer stands in for."""
        written = node.outputs[0]
        if (
            len(written.outputs) == 1
            and written.name not in self.outputs
            and written.outputs[0].op in self.target.absorbs
            and not _starts_above_zero(written.outputs[0])
        ):
            return written.outputs[0].outputs[0]
        return written

    def _seen(self, node: gs.Node) -> list[gs.Tensor]:
        """What others read of a node in integers; a data mover has to write the scale that it reads."""
        alone = self._kind(node) != "same-scale" and len(node.outputs) == 1
        return [self._absorbing_output(node)] if alone else list(node.outputs)

    def _touch_everything(self) -> None:
        """Want whatever an operator of the table reads or writes, constants too, and put nothing between in float."""
        left = {skip.node for skip in self.placed.skips}
        for node in self.graph.nodes:
            kind = self._kind(node)
            if kind is None or node.name in left | self.placed.integer or (kind == "concat" and self._far_apart(node)):
                continue
            data = [tensor for tensor in self._data(node) if tensor.dtype == np.float32]
            written = [tensor for tensor in self._seen(node) if tensor.dtype == np.float32]
            if any(isinstance(each, gs.Constant) and not np.isfinite(each.values).all() for each in data):
                self._skip(node, "a constant that it reads holds NaN or infinity")
                continue
            self._take(node, data)
            self._write(written, f"output of {node.name} ({node.op}): the target has no float units")
            if kind == "same-scale":
                self.placed.share_scale([*data, *written])
        for node in self.graph.nodes:
            if node.name in {site.layer for site in self.placed.weights.values()}:
                written = self._absorbing_output(node)
                self._write([written], f"output of {node.name} ({node.op}): the target has no float units")

    # -- everything that may join

    def _spread(self) -> bool:
        """One round over the graph; True when it changed anything."""
        before = (len(self.placed.tensors), len(self.placed.integer), sum(map(len, self.placed.groups)))
        wanted_later = self._wanted_later()
        for node in self.graph.nodes:
            kind = self._kind(node)
            if kind in CARRYING:
                self._carry(node, kind, wanted_later)
                continue
            if kind == "elementwise" and node.name not in self.placed.integer:
                self._elementwise(node)
            for tensor in node.outputs if self.target.early else ():
                if tensor.name in wanted_later:
                    self.placed.want(tensor, "what follows carries it, in integers, to a layer")
        return before != (len(self.placed.tensors), len(self.placed.integer), sum(map(len, self.placed.groups)))

    def _wanted_later(self) -> set[str]:
        """Tensors that reach, through data movers and unary operators alone, somebody who reads integers."""
        wanted = set(self.placed.tensors)
        for node in reversed(self.graph.nodes):
            if any(tensor.name in wanted for tensor in self._seen(node)) and self._carries(node):
                wanted.update(tensor.name for tensor in self._data(node))
        return wanted

    def _carries(self, node: gs.Node) -> bool:
        """Whether a node passes on integers. Of several outputs, the second one of a MaxPool holds indices."""
        single = len(node.outputs) == 1 or node.op == "Split"
        apart = node.op == "Concat" and self._far_apart(node)
        return self._kind(node) in CARRYING and single and not apart and not self._constant_operands(node)

    @staticmethod
    def _data(node: gs.Node) -> list[gs.Tensor]:
        """The inputs of a node that carry data."""
        return list(node.inputs[: DATA_INPUTS.get(node.op, 1)])

    def _constant_operands(self, node: gs.Node) -> list[gs.Tensor]:
        return [tensor for tensor in self._data(node) if tensor.name in self.constants]

    def _elementwise(self, node: gs.Node) -> None:
        constants = self._constant_operands(node)
        if len(node.inputs) != 2 or not all(self._can_be_rounded(tensor, node) for tensor in constants):
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
        if branches or (not constants and all(tensor.name in self.placed.tensors for tensor in node.inputs)):
            self._take(node, list(node.inputs))
            written = self._absorbing_output(node)
            self.from_layer.add(written.name)
            if node.op in self.target.output_required:
                self._write([written], f"output of {node.name}: its integer kernel writes integers")

    def _can_be_rounded(self, constant: gs.Tensor, node: gs.Node) -> bool:
        """Whether a constant operand may join in 8 bits: where integers have a kernel of their own (elsewhere it is
        the end of a layer), as a term, whose error is not above the sum's, or as the only factor, which is exact."""
        alone = len(constant.outputs) == 1 and node.op in self.target.output_required
        single = constant.shape is not None and all(size == 1 for size in constant.shape)
        return alone and (node.op == "Add" or single)

    def _carry(self, node: gs.Node, kind: str, wanted_later: set[str]) -> None:
        tensors, data, written = self.placed.tensors, self._data(node), self._seen(node)
        if not any(tensor.name in wanted_later for tensor in written):
            return
        if kind == "concat" and self._far_apart(node):
            return
        if kind == "concat" and self.target.one_scale_concat:
            if any(tensor.name in tensors for tensor in node.outputs):
                self.placed.share_scale([*data, *node.outputs])
            if not self.target.early:
                return
        if not self._carries(node) or any(tensor.name not in tensors for tensor in data):
            return
        self._take(node, data)
        self._write(written, f"output of {node.name} ({node.op}) between integers")
        if kind == "same-scale":
            self.placed.share_scale([*data, *node.outputs])
        copied = self._copied(node) if kind == "concat" and self.target.concat_copies else []
        if copied:
            self.placed.share_scale([*copied, *node.outputs])

    def _copied(self, node: gs.Node) -> list[gs.Tensor]:
        """Inputs of a Concat that should have the scale of its result.

        One that nobody else reads gains nothing from a finer scale, for the result rounds it to the coarser one; nor
        does one whose range is that of the result.
        """
        if any(tensor.name not in self.ranges for tensor in node.inputs):
            return []
        lows, highs = zip(*(self.ranges[tensor.name] for tensor in node.inputs), strict=True)
        low, high = min(lows), max(highs)

        def alone(tensor: gs.Tensor) -> bool:
            return len(tensor.outputs) == 1 and tensor.name not in self.outputs

        found = [tensor for tensor in node.inputs if alone(tensor) or self.ranges[tensor.name] == (low, high)]
        return [tensor for tensor in found if self._bears(tensor, low, high)]

    def _bears(self, tensor: gs.Tensor, low: float, high: float) -> bool:
        """Whether a tensor may be quantized over this range: a quantizer that reaches further than the activation in
        front of it does not stand in for that activation, and the layer would run in float."""
        writer = tensor.inputs[0] if tensor.inputs else None
        if writer is None or self._kind(writer) == "same-scale":
            return False
        if writer.op not in self.target.absorbs:
            return True
        own = self.ranges[tensor.name]
        return low >= min(own[0], 0) and (writer.op == "Relu" or high <= own[1])

    def _far_apart(self, node: gs.Node) -> bool:
        """Whether a Concat joins ranges that no single scale can serve; told once."""
        if node.name in self.apart:
            return True
        known = {tensor.name: self.ranges[tensor.name] for tensor in node.inputs if tensor.name in self.ranges}
        spans = {name: max(-low, high) for name, (low, high) in known.items() if max(-low, high) > 0}
        if len(spans) < 2 or max(spans.values()) < FAR_APART * min(spans.values()):
            return False
        self.apart.add(node.name)
        small, large = min(spans, key=lambda name: spans[name]), max(spans, key=lambda name: spans[name])
        self._skip(
            node, f"it joins ranges far apart: {small} up to {spans[small]:.3g}, {large} up to {spans[large]:.3g}"
        )
        return True


def objection(node: gs.Node) -> str:
    """Why the weights of a layer can't be quantized, whatever the target; empty when they can."""
    if len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
        return COMPUTED
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
    return ""


def _starts_above_zero(node: gs.Node) -> bool:
    """Whether a Clip keeps zero out, which every quantizer lets through: none can stand in for it."""
    low = node.inputs[1] if node.op == "Clip" and len(node.inputs) > 1 else None
    if not isinstance(low, gs.Constant):
        return node.op == "Clip" and bool(low and low.name)  # computed: nobody knows
    return bool((low.values > 0).any())


def _constants(graph: gs.Graph) -> set[str]:
    """Constants, and what is computed from them alone."""
    names = {tensor.name for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)}
    for node in graph.nodes:
        if node.inputs and all(tensor.name in names for tensor in node.inputs if tensor.name):
            names.update(tensor.name for tensor in node.outputs)
    return names


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
