"""How much a network's answers suffer when the weights of one layer, and of no other, get fewer bits.

The network is cut behind every layer. What rounding does to a layer's output is added there, without its mean, which
bias correction will take away, and the rest of the network runs on:

    x -> layer(W) -> y         y + e - mean(e) -> the rest -> answers, compared with those of the float network
    x -> layer(W_b - W) -> e

Only the widths in PROBES are run, on a few images of any kind, which is enough to rank layers. The damage of small
errors grows with their power, so that for other widths it is scaled by the ratio of the squared errors of the weights.
Related: Cai et al., ZeroQ, CVPR 2020, section 3.2, the same divergence with every width run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import isfinite

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper, numpy_helper

from onnxdfq.engine.ort import Session
from onnxdfq.verify.agreement import is_scores, kl
from passes.placement import CONVOLUTIONS

PROBES = (2, 4)  # bits; with 2 many errors are too large to be scaled from elsewhere
HOPELESS = 1e6  # finite, so that the damages of other layers still count beside it
Values = Mapping[str, np.ndarray]


def sensitivities(
    model: onnx.ModelProto,
    layers: Collection[str],
    batches: Sequence[Values],
    widths: Collection[int],
    rounded: Callable[[str, int], np.ndarray],
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[int, float]]:
    """The damage done by ``widths`` bits, by layer (name of a node), in order of the graph, and by bits.

    Damage is the mean KL(float || rounded) in nats where the first output is a vector of scores, else the noise over
    the signal, averaged over all float outputs; HOPELESS where it is no number. model: in float; ``layers`` read their
    weights from initializers. batches: feeds; what is alive at one cut is held for all of them. rounded: the weights
    that a layer would have at so many bits, as the model stores them.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    pieces = _pieces(model, layers)
    held = list(batches)
    outputs = [entry.name for entry in model.graph.output]
    answers = [_finished(pieces, values) for values in held]
    probes = [bits for bits in PROBES if bits in widths] or PROBES[-1:]
    found: dict[str, dict[int, float]] = {}
    for index, piece in enumerate(pieces[:-1]):
        layer, rest = piece.nodes[-1], pieces[index + 1 :]
        held = [piece.run(values) for values in held]
        exact = numpy_helper.to_array(weights[layer.input[1]])
        errors = {bits: rounded(layer.name, bits) - exact for bits in sorted({*widths, *probes})}
        power = {bits: float(np.square(error, dtype=np.float64).sum()) for bits, error in errors.items()}
        inputs = [values[layer.input[0]] for values in held]
        measured = {}
        for bits in probes:
            if power[bits] > 0:  # else the weights lie on such a grid already
                shifts = _errors(model, layer, errors[bits], inputs)
                disturbed = [_plus(values, layer.output[0], shift) for values, shift in zip(held, shifts, strict=True)]
                measured[bits] = _damage(outputs, answers, [_finished(rest, values) for values in disturbed])
        found[layer.name] = {bits: _scaled(measured, power, bits) for bits in widths}
        on_step(index + 1, len(pieces) - 1)
    return found


def _scaled(measured: Mapping[int, float], power: Mapping[int, float], bits: int) -> float:
    """The damage of ``bits``: measured, or scaled from the next width above that was, or from the widest."""
    if not measured or not power[bits]:
        return 0.0
    source = min((probe for probe in measured if probe >= bits), default=max(measured))
    return measured[source] * power[bits] / power[source]


def _plus(values: Values, name: str, shift: np.ndarray) -> Values:
    return {**values, name: values[name] + shift}


def _errors(
    model: onnx.ModelProto, layer: NodeProto, weights: np.ndarray, inputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What ``weights`` alone make of the inputs, without the mean of each channel over all of them."""
    alone = NodeProto()
    alone.CopyFrom(layer)
    del alone.input[2:]
    held = [numpy_helper.from_array(weights.astype(inputs[0].dtype), layer.input[1])]
    session = Session(_model(model, [alone], {layer.input[0]: inputs[0]}, [layer.output[0]], held))
    outputs = [session.run({layer.input[0]: values})[layer.output[0]] for values in inputs]
    axis = 1 if layer.op_type in CONVOLUTIONS else outputs[0].ndim - 1
    others = tuple(k for k in range(outputs[0].ndim) if k != axis)
    total = sum(each.sum(others, keepdims=True, dtype=np.float64) for each in outputs)
    mean = total / sum(each.size // each.shape[axis] for each in outputs)
    return [each - mean.astype(each.dtype) for each in outputs]


class _Piece:
    """The nodes from behind one cut to the next, the last of them a layer; loaded when they run first."""

    def __init__(self, model: onnx.ModelProto, nodes: list[NodeProto], later: set[str]) -> None:
        self.model = model
        self.nodes = nodes
        self.later = later  # tensors that somebody reads behind this piece
        initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        reads, makes = _reads(nodes), {name for node in nodes for name in node.output}
        self.needs = sorted(reads - makes - initializers.keys())
        self.kept = sorted(makes & later)
        self.weights = [initializers[name] for name in sorted(reads & initializers.keys())]
        self.session: Session | None = None

    def run(self, values: Values) -> Values:
        """Everything that is alive behind the piece, from what is alive before it."""
        if not self.kept:
            return {name: each for name, each in values.items() if name in self.later}
        if self.session is None:
            inputs = {name: values[name] for name in self.needs}
            self.session = Session(_model(self.model, self.nodes, inputs, self.kept, self.weights))
        computed = self.session.run({name: values[name] for name in self.needs})
        return {name: each for name, each in {**values, **computed}.items() if name in self.later}


def _pieces(model: onnx.ModelProto, layers: Collection[str]) -> list[_Piece]:
    """The model cut behind each layer; the last piece, which may be empty, is what follows them all."""
    nodes = list(model.graph.node)
    ends = [place + 1 for place, node in enumerate(nodes) if node.name in set(layers)] + [len(nodes)]
    later = {entry.name for entry in model.graph.output}
    pieces: list[_Piece] = []
    for start, end in zip(reversed([0, *ends[:-1]]), reversed(ends), strict=True):
        part = nodes[start:end]
        # A layer's input is kept for its own sake: what goes wrong in the layer is computed from it.
        extra = {part[-1].input[0]} if pieces else set()
        pieces.append(_Piece(model, part, later | extra))
        later = later | _reads(part)
    return pieces[::-1]


def _reads(nodes: Iterable[NodeProto]) -> set[str]:
    """Names that nodes read, those that only their subgraphs read included."""
    found: set[str] = set()
    for node in nodes:
        found.update(filter(None, node.input))
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                made = {name for each in attribute.g.node for name in each.output}
                made |= {entry.name for entry in [*attribute.g.input, *attribute.g.initializer]}
                found |= _reads(attribute.g.node) - made
    return found


def _model(
    whole: onnx.ModelProto,
    nodes: Sequence[NodeProto],
    inputs: Values,
    outputs: Sequence[str],
    weights: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    """Nodes of a model as a model of their own; of its tensors only the types are given."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(values.dtype) for name, values in inputs.items()}
    entries = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "piece", entries, [onnx.ValueInfoProto(name=name) for name in outputs], weights)
    return helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)


def _finished(pieces: Iterable[_Piece], values: Values) -> Values:
    for piece in pieces:
        values = piece.run(values)
    return values


def _damage(outputs: Iterable[str], expected: Sequence[Values], computed: Sequence[Values]) -> float:
    """How far the answers to all batches are from the expected ones; HOPELESS where that is no number."""
    pairs = [[(right[name], other[name]) for right, other in zip(expected, computed, strict=True)] for name in outputs]
    alike = all(right.size and right.dtype.kind == "f" and right.shape == other.shape for right, other in pairs[0])
    if alike and is_scores(pairs[0][0][0]):
        divergence = sum(kl(_rows(right), _rows(other)) for right, other in pairs[0])
        damage = max(divergence / sum(len(right) for right, _ in pairs[0]), 0.0)
    else:
        damage = float(np.mean([_noise(each) for each in pairs if each[0][0].dtype.kind == "f"] or [1.0]))
    return damage if isfinite(damage) else HOPELESS


def _noise(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Noise over signal; 1 where there is nothing to subtract, as of boxes that came or went."""
    if any(right.shape != other.shape for right, other in pairs):
        return 1.0
    signal, noise = 0.0, 0.0
    for right, other in pairs:
        signal += float(np.square(right, dtype=np.float64).sum())
        noise += float(np.square(right - other, dtype=np.float64).sum())
    return noise / max(signal, 1e-30)


def _rows(scores: np.ndarray) -> np.ndarray:
    return scores.reshape(len(scores), -1).astype(np.float64)
