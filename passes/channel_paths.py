"""Who reads each output channel of a layer, through operators that a positive factor per channel passes through.

    f(s_j x_j) = s_j f(x_j)  for s_j > 0:  Relu, LeakyRelu, pools, Flatten of single pixels, depthwise convolutions ...

    A -> Relu -> MaxPool -> B             B reads the channels of A
    A -> Relu -> Concat <- other          B reads them behind those of the other branch: at an offset
                    Concat -> B
    A -> Relu -> depthwise -> Relu -> B   B reads them, filtered; the bias of the depthwise has to be scaled too

What holds for such a path: output channel j of A times s_j, and input channel offset + j of every reader divided by
s_j, changes nothing (Nagel et al. 2019, section 4.1). What ends a path is named in a skip. Pure: the graph is only
read; it is canonical, and has the shapes of its tensors written in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Skip
from passes.correct_bias import bias_of
from passes.fold_batchnorm import constant_statistics
from passes.layer_kernels import kernels_of
from passes.placement import WEIGHTED

RULE = "channel-path"
SAME_AXIS = ("Identity", "Dropout", "Relu", "LeakyRelu", "PRelu")  # whichever axis counts the channels
SPATIAL = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")  # over the axes behind the channels
RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Reader:
    """A layer whose input channel ``offset + c`` is channel c of the producer."""

    layer: str
    offset: int


@dataclass(frozen=True)
class ChannelPath:
    """From a layer to all that read its channels.

    through: depthwise convolutions on the way; clips: Clip(0, high) and Min(high) on the way, through which a factor
    passes only approximately, unless ``high`` is scaled too. Both see exactly these channels, along axis 1.
    """

    layer: str
    readers: tuple[Reader, ...]
    through: tuple[str, ...]
    clips: tuple[str, ...]


def path_of(graph: gs.Graph, layer_name: str, *, through_depthwise: bool = True) -> ChannelPath | Skip:
    """The path from a layer with constant weights, or from a LayerNormalization; the reason where there is none.

    through_depthwise: pass through depthwise convolutions; else they are readers like any other. Raises KeyError for a
    name that the graph does not have.
    """
    layer = next((node for node in graph.nodes if node.name == layer_name), None)
    if layer is None:
        raise KeyError(layer_name)
    walk = _Walk({tensor.name for tensor in graph.outputs}, through_depthwise)
    reason = _objection(layer) or walk.run(layer)
    if reason:
        return Skip(layer_name, RULE, reason)
    return ChannelPath(layer_name, tuple(walk.readers), tuple(walk.through), tuple(walk.clips))


def is_depthwise(node: gs.Node) -> bool:
    """Whether a node filters every channel on its own, into one channel each: weights [C, 1, k..] in C > 1 groups."""
    if node.op != "Conv" or not isinstance(node.inputs[1], gs.Constant):
        return False
    channels, into = node.inputs[1].shape[:2]
    return bool(into == 1 and channels > 1 and node.attrs.get("group", 1) == channels)


def norm_of(layer: gs.Node) -> gs.Node | None:
    """The BatchNormalization that alone reads what a layer writes, its bias included: an affine map that belongs to
    the layer."""
    readers = _biased(layer).outputs
    if len(readers) != 1 or readers[0].op != "BatchNormalization" or channel_axis(layer) != 1:
        return None
    norm = readers[0]
    return norm if constant_statistics(norm) and not norm.attrs.get("training_mode", 0) else None


def written_by(layer: gs.Node) -> gs.Tensor:
    """What a layer writes, its bias and its normalization included."""
    norm = norm_of(layer)
    return norm.outputs[0] if norm else _biased(layer)


def _biased(layer: gs.Node) -> gs.Tensor:
    place = bias_of(layer)
    return place[0].outputs[0] if place else layer.outputs[0]


def channel_axis(layer: gs.Node) -> int | None:
    """The axis of a layer's output that counts its channels; None if that is not known."""
    if layer.op not in ("MatMul", "LayerNormalization"):
        return 1
    rank = len(_biased(layer).shape or ())
    return rank - 1 if rank else None


def _objection(layer: gs.Node) -> str:
    """Why no path begins at a node; empty when one may."""
    if layer.op not in (*WEIGHTED, "LayerNormalization"):
        return f"{layer.op} has no weights"
    if len(layer.inputs) < 2 or not isinstance(layer.inputs[1], gs.Constant):
        return "its weights are not constant"
    if layer.op == "MatMul" and layer.inputs[1].values.ndim != 2:
        return "its weights are not a matrix"
    if len(layer.inputs) > 2 and not isinstance(layer.inputs[2], gs.Constant):
        return "its bias is not constant"
    axis = channel_axis(layer)
    if axis is None:
        return f"the shape of {layer.outputs[0].name} is not known"
    if layer.op == "LayerNormalization" and layer.attrs.get("axis", -1) not in (-1, axis):
        return "it normalizes more than one axis"
    return ""


class _Place(NamedTuple):
    """Where the channels are: at ``offset`` and onward along ``axis`` of a tensor."""

    tensor: gs.Tensor
    axis: int
    offset: int


@dataclass
class _Walk:
    outputs: set[str]
    through_depthwise: bool
    readers: list[Reader] = field(default_factory=list)
    through: list[str] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    channels: int = 0

    def run(self, layer: gs.Node) -> str:
        """Collect everything behind a layer; why that failed, or an empty text."""
        weight = layer.inputs[1].values
        self.channels = weight.size if layer.op == "LayerNormalization" else len(kernels_of(layer))
        places = [_Place(self._end(layer), channel_axis(layer) or 0, 0)]
        while places:
            place = places.pop(0)
            if place.tensor.name in self.outputs:
                return f"its channels are read from {place.tensor.name}, an output of the model"
            for node in {id(reader): reader for reader in place.tensor.outputs}.values():
                found = self._pass(node, place)
                if isinstance(found, str):
                    return found
                places += found
        return "" if self.readers else "no layer reads its channels"

    def _end(self, layer: gs.Node) -> gs.Tensor:
        """What a layer writes; as it is before bias and normalization if that is an output of the model as well."""
        for tensor in (layer.outputs[0], _biased(layer)):
            if tensor.name in self.outputs:
                return tensor
        return written_by(layer)

    def _pass(self, node: gs.Node, place: _Place) -> Sequence[_Place] | str:
        """Where the channels are behind a node: nowhere if it is a reader; or why they do not get there."""
        if node.op == "Concat":
            return _behind_concat(node, place)
        positions = [position for position, tensor in enumerate(node.inputs) if tensor is place.tensor]
        if positions != [0] or any(tensor.outputs for tensor in node.outputs[1:]):
            return _no_way(node)
        if node.op in WEIGHTED:
            return self._layer(node, place)
        if _is_ceiling(node):
            shape = list(place.tensor.shape or [])
            if place.axis != 1 or len(shape) < 2 or shape[1] != self.channels:
                return f"{node.name} clips the channels of other layers too"
            self.clips.append(node.name)
            return [_Place(node.outputs[0], 1, 0)]
        axis = _axis_behind(node, place)
        return _no_way(node) if axis is None else [_Place(node.outputs[0], axis, place.offset)]

    def _layer(self, node: gs.Node, place: _Place) -> Sequence[_Place] | str:
        weight = node.inputs[1]
        if not isinstance(weight, gs.Constant):
            return f"the weights of {node.name}, which reads its channels, are not constant"
        reads = 1
        if node.op == "MatMul":
            reads = len(place.tensor.shape or ()) - 1 if weight.values.ndim == 2 else -1
        if place.axis != reads or node.attrs.get("transA", 0):
            return f"{node.name} does not read its channels as input channels"
        if is_depthwise(node) and self.through_depthwise:
            if place.offset or weight.shape[0] != self.channels:
                return f"{node.name} is depthwise, and reads the channels of other layers too"
            if bias_of(node) is None:
                return f"the bias of {node.name}, which its channels pass, is not constant"
            self.through.append(node.name)
            return [_Place(self._end(node), 1, 0)]
        self.readers.append(Reader(node.name, place.offset))
        return []


def _no_way(node: gs.Node) -> str:
    if node.op in ("Add", "Sum", "Sub") and not any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
        return f"its channels meet those of another branch in {node.name}"
    return f"its channels are read by {node.name} ({node.op}), through which a factor does not pass"


def _axis_behind(node: gs.Node, place: _Place) -> int | None:
    """The axis of the channels behind a node that passes positive factors through; None if it does not."""
    axis, before, after = place.axis, list(place.tensor.shape or []), list(node.outputs[0].shape or [])
    if node.op in SAME_AXIS or (node.op in SPATIAL and axis == 1):
        return axis
    if node.op == "Clip":  # without a bound above it is a Relu, or nothing
        return axis if not _bound(node, 1) and _bound(node, 2) is None else None
    if node.op == "Transpose":
        return node.attrs["perm"].index(axis) if "perm" in node.attrs else None
    if node.op in RESHAPING:
        if axis == 1 and _channels_alone(before) and _channels_alone(after) and before[1] == after[1]:
            return 1
        last = axis == len(before) - 1 and bool(after) and isinstance(before[-1], int) and before[-1] == after[-1]
        return len(after) - 1 if last else None
    if len(before) != len(after) or not isinstance(before[axis], int) or before[axis] != after[axis]:
        return None
    if node.op == "Pad":
        return axis if node.attrs.get("mode", "constant") != "constant" or not _bound(node, 2) else None
    if node.op == "Resize":
        plain = node.attrs.get("mode", "nearest") in ("nearest", "linear")
        return axis if plain and not node.attrs.get("extrapolation_value", 0) else None
    return None


def _channels_alone(shape: Sequence[int | str]) -> bool:
    """Whether nothing but single pixels is behind the channels."""
    return len(shape) > 1 and isinstance(shape[1], int) and all(size == 1 for size in shape[2:])


def _is_ceiling(node: gs.Node) -> bool:
    """Whether a node is Clip(0, high) or, with a constant for each channel or one for all, Min(high)."""
    if node.op == "Clip":
        return not _bound(node, 1) and np.isfinite(_bound(node, 2) or np.nan)
    if node.op != "Min" or len(node.inputs) != 2 or not isinstance(node.inputs[1], gs.Constant):
        return False
    high, rank = node.inputs[1].values, len(node.inputs[0].shape or ())
    return high.size == 1 or (high.ndim == rank - 1 and high.size == high.shape[0])


def _bound(node: gs.Node, position: int) -> float | None:
    """The constant number that a node reads at a position; None where it reads none, NaN where it is computed."""
    if len(node.inputs) <= position or not node.inputs[position].name:
        return None
    tensor = node.inputs[position]
    return float(tensor.values.item()) if isinstance(tensor, gs.Constant) and tensor.values.size == 1 else np.nan


def _behind_concat(node: gs.Node, place: _Place) -> Sequence[_Place] | str:
    axis = node.attrs["axis"]
    axis += len(place.tensor.shape or ()) if axis < 0 else 0
    if axis != place.axis:
        return f"its channels meet those of another branch in {node.name}"
    places, ahead = [], 0
    for tensor in node.inputs:
        if tensor is place.tensor:
            places.append(_Place(node.outputs[0], axis, place.offset + ahead))
        size = tensor.shape[axis] if tensor.shape else None
        if not isinstance(size, int):
            return f"how many channels {tensor.name} has, before its own in {node.name}, is not known"
        ahead += size
    return places
