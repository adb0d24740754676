"""From the statistics that a model carries to those of every tensor that they reach.

    n (BatchNormalization wrote it) -> Relu -> r -> Conv -> c -> Add -> a       n is known; r, c and a are computed

What BatchNormalization recorded wins over what would be computed. Branches of an Add are taken as independent, and a
sum as normal. MaxPool is taken as if it changed nothing, although it raises the mean: the layers after it have
normalizations of their own, mostly. Averages keep their mean exactly. Borders are not looked at.

Channels are axis 1 of all tensors. What no rule is written for ends the propagation, and its output stays unknown;
that of a ConvTranspose has other statistics at every place of its stride.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from passes.fold_batchnorm import ChannelStats
from passes.layer_kernels import groups_of, kernels_of
from passes.moments import averaged, clipped, covariance, leaky, mean_shift

NEIGHBOURS = 0.5  # correlation of activations under one kernel, where nothing better is known


def propagate(
    graph: gs.Graph, statistics: Mapping[str, ChannelStats], rho: float = NEIGHBOURS
) -> dict[str, ChannelStats]:  # fmt: skip
    """Statistics by the name of the tensor, those given included.

    graph: canonical, with the shapes of its tensors written in. statistics: as FoldBatchNorm records them, and of the
    graph's input if they are known. rho: correlation of neighbours, for layers and averages without statistics.
    """
    found = dict(statistics)
    for node in graph.nodes:
        stats = None
        if node.outputs[0].name in found:
            continue
        if node.op in JOINS:
            stats = JOINS[node.op](node, found)
        elif node.op in RULES and node.inputs[0].name in found:
            stats = RULES[node.op](node, found[node.inputs[0].name], rho)
        if stats is not None:
            found[node.outputs[0].name] = stats
    return found


def _unchanged(node: gs.Node, stats: ChannelStats, rho: float) -> ChannelStats:
    return stats


def _relu(node: gs.Node, stats: ChannelStats, rho: float) -> ChannelStats:
    return clipped(stats, 0.0, np.inf)


def _clip(node: gs.Node, stats: ChannelStats, rho: float) -> ChannelStats | None:
    bounds = [-np.inf, np.inf]
    for position, tensor in enumerate(node.inputs[1:3]):
        if isinstance(tensor, gs.Constant):
            bounds[position] = tensor.values.item()
        elif tensor.name:
            return None
    return clipped(stats, *bounds)


def _leaky_relu(node: gs.Node, stats: ChannelStats, rho: float) -> ChannelStats:
    return leaky(stats, node.attrs.get("alpha", 0.01))


def _average(node: gs.Node, stats: ChannelStats, rho: float) -> ChannelStats | None:
    places = node.attrs["kernel_shape"] if node.op == "AveragePool" else _places(node.inputs[0])
    return averaged(stats, math.prod(places), rho) if places is not None else None


def _flatten(node: gs.Node, stats: ChannelStats, rho: float) -> ChannelStats | None:
    """Flatten, Reshape and Squeeze to [N, channels * places]: every channel becomes as many as it has places."""
    places, shape = _places(node.inputs[0]), list(node.outputs[0].shape or ())
    repeats = math.prod(places or ())
    if places is None or len(shape) != 2 or shape[1] != stats.mean.size * repeats:
        return None
    return ChannelStats(np.repeat(stats.mean, repeats), np.repeat(stats.std, repeats))


def _slice(node: gs.Node, stats: ChannelStats, rho: float) -> ChannelStats | None:
    """Cutting other axes than that of the channels leaves statistics as they are."""
    if len(node.inputs) < 4 or not all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:]):
        return None
    values = [tensor.values.tolist() for tensor in node.inputs[1:]]
    starts, ends, axes = values[:3]
    strides = values[3] if len(values) > 3 else [1] * len(axes)
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        if axis in (1, 1 - len(node.inputs[0].shape or ())):
            stats = ChannelStats(stats.mean[start:end:stride], stats.std[start:end:stride])
    return stats


def _pad(node: gs.Node, stats: ChannelStats, rho: float) -> ChannelStats | None:
    """Channels that are added are constant; other axes grow by borders, which are not looked at."""
    plain = len(node.inputs) < 4 and all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:])
    if not plain or node.attrs.get("mode", "constant") not in ("constant", b"constant"):
        return None
    pads = node.inputs[1].values
    filled = node.inputs[2].values.item() if len(node.inputs) > 2 else 0.0
    before, after = int(pads[1]), int(pads[1 + pads.size // 2])
    if min(before, after) < 0:
        return None
    around = (before, after)
    return ChannelStats(np.pad(stats.mean, around, constant_values=filled), np.pad(stats.std, around))


def _layer(node: gs.Node, stats: ChannelStats, rho: float) -> ChannelStats | None:
    if not all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:]) or node.inputs[1].values.ndim < 2:
        return None
    flat = node.op in ("Gemm", "MatMul")
    if flat and (len(node.inputs[0].shape or ()) != 2 or node.attrs.get("transA", 0)):
        return None  # the channels of a larger matrix product are its last axis
    kernels = kernels_of(node)
    if kernels.shape[1] * groups_of(node) != stats.mean.size:
        return None
    mean = mean_shift(node, kernels, stats.mean)
    if len(node.inputs) > 2:
        values = node.inputs[2].values
        bias = _by_channel(values, 2, mean.size) if flat else values
        if bias is None:
            return None
        mean = mean + bias * node.attrs.get("beta", 1.0)
    return ChannelStats(mean, np.sqrt(np.maximum(covariance(node, kernels, kernels, stats.std, rho), 0)))


def _add(node: gs.Node, known: Mapping[str, ChannelStats]) -> ChannelStats | None:
    constants = [tensor for tensor in node.inputs if isinstance(tensor, gs.Constant)]
    terms = [known[tensor.name] for tensor in node.inputs if tensor.name in known]
    if len(constants) + len(terms) < len(node.inputs) or len({term.mean.size for term in terms}) != 1:
        return None  # something is unknown, or broadcast
    mean = np.sum([term.mean for term in terms], axis=0)
    for tensor in constants:
        shift = _by_channel(tensor.values, len(node.outputs[0].shape or ()), mean.size)
        if shift is None:
            return None
        mean = mean + shift
    return ChannelStats(mean, np.sqrt(np.sum([np.square(term.std) for term in terms], axis=0)))


def _concat(node: gs.Node, known: Mapping[str, ChannelStats]) -> ChannelStats | None:
    parts = [known[tensor.name] for tensor in node.inputs if tensor.name in known]
    if len(parts) < len(node.inputs) or node.attrs["axis"] not in (1, 1 - len(node.outputs[0].shape or ())):
        return None
    return ChannelStats(np.concatenate([part.mean for part in parts]), np.concatenate([part.std for part in parts]))


def _by_channel(values: np.ndarray, rank: int, channels: int) -> np.ndarray | None:
    """A constant that is broadcast to a tensor of this rank, as one number for each channel; None where it differs
    within one."""
    shape = (1,) * (rank - values.ndim) + values.shape
    if len(shape) != rank or rank < 2 or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return np.broadcast_to(values.reshape(-1), (channels,)) if shape[1] in (1, channels) else None


def _places(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The sizes of the axes after the channels; None when they are not known."""
    sizes = tuple((tensor.shape or ())[2:])
    return sizes if tensor.shape and all(isinstance(size, int) for size in sizes) else None


RULES: Mapping[str, Callable[[gs.Node, ChannelStats, float], ChannelStats | None]] = {
    **dict.fromkeys(("Identity", "Dropout", "MaxPool", "Resize"), _unchanged),
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _layer),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool"), _average),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze"), _flatten),
    "Relu": _relu,
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "Slice": _slice,
    "Pad": _pad,
}
JOINS: Mapping[str, Callable[[gs.Node, Mapping[str, ChannelStats]], ChannelStats | None]] = {
    "Add": _add,
    "Concat": _concat,
}
