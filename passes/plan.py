"""decide(): from observed ranges to the scale and zero-point of every quantized tensor.

    asymmetric, b bits     scale = (high - low) / (2^b - 1)           zero_point = qmin - round(low / scale)
    symmetric,  b bits     scale = max(-low, high) / (2^(b-1) - 1)    zero_point = 0

Ranges always contain 0, so that padding and ReLU are exact. Weights are symmetric, one scale per output channel.
Activations of fewer than 8 bits ride in 8: they keep to 2^b codes, to which insert_qdq clips them. Symmetric ones use
the lowest code too, which 8 bits spare, or, where nothing is below 0, the codes from 0 up.
The plan is data: pure to make, JSON to store, and the only thing that insert_qdq follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Skip
from passes.layer_kernels import kernels_of
from passes.placement import Placement, place
from passes.targets import Target
from passes.weight_scales import SMALLEST_SCALE, Scales, find_grid

INTEGER_LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}


@dataclass(frozen=True)
class QuantParams:
    """How one tensor is quantized: real = (code - zero_point) * scale, along ``axis`` or, with None, as a whole.

    codes: the lowest and the highest code that an activation keeps to; None for all of its type."""

    dtype: str
    bits: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None
    why: str
    codes: tuple[int, int] | None = None


@dataclass(frozen=True)
class QuantPlan:
    """The whole decision for one target. ``readers``: for each activation, the nodes that read it quantized; none for
    an output of the model. Tensors that are not in it are weights."""

    target: str
    tensors: Mapping[str, QuantParams]
    readers: Mapping[str, tuple[str, ...]]
    skips: tuple[Skip, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and text; ``from_json`` gives the same plan back."""
        return {
            "target": self.target,
            "tensors": {name: asdict(params) for name, params in self.tensors.items()},
            "readers": {name: list(nodes) for name, nodes in self.readers.items()},
            "skips": [asdict(skip) for skip in self.skips],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantPlan:
        """The plan that ``to_json`` wrote. Raises TypeError on a field it does not know."""
        tensors = {name: _params(fields) for name, fields in data["tensors"].items()}
        readers = {name: tuple(nodes) for name, nodes in data["readers"].items()}
        return cls(data["target"], tensors, readers, tuple(Skip(**skip) for skip in data["skips"]))


def _params(fields: Mapping[str, Any]) -> QuantParams:
    """Parameters as JSON has them, which makes lists of tuples."""
    lists = ("scale", "zero_point", "codes")
    known: dict[str, Any] = {
        key: tuple(value) if key in lists and value is not None else value for key, value in fields.items()
    }
    return QuantParams(**known)


def reach(params: QuantParams) -> tuple[float, float]:
    """The range of an activation from which ``decide`` makes this scale."""
    lowest, highest = params.codes or INTEGER_LIMITS[params.dtype]
    zero, scale = params.zero_point[0], params.scale[0]
    if params.codes is None and zero == 0 and lowest < 0:
        lowest = -highest  # symmetric: the lowest code is spared
    return (lowest - zero) * scale, (highest - zero) * scale


def decide(
    graph: gs.Graph,
    ranges: Mapping[str, tuple[float, float]],
    target: Target,
    bits: int | Mapping[str, int] = 8,
    placement: Placement | None = None,
    act_bits: int | Mapping[str, int] = 8,
    scales: Scales = "min-max",
) -> QuantPlan:
    """The plan for a canonical graph.

    ranges: (low, high) of each activation that the placement wants. bits: of all weights, or by the name of the
    weights, where those that are missing get 8. act_bits: of activations, 2 to 8 or 16, in the same way. scales:
    how those of the weights are found. Raises KeyError for an activation without a range.
    """
    placed = placement or place(graph, target)
    shared = _shared_ranges({**ranges, **_constant_ranges(graph, placed)}, placed)
    widths = act_bits if isinstance(act_bits, Mapping) else dict.fromkeys(placed.tensors, act_bits)
    tensors = {
        name: _activation(*shared[name], widths.get(name, 8), target, why) for name, why in placed.tensors.items()
    }
    layers = {node.name: node for node in graph.nodes}
    for name, site in placed.weights.items():
        layer = layers[site.layer]
        floor = np.array(SMALLEST_SCALE, np.float32)
        source = tensors.get(layer.inputs[0].name)
        if source:  # whatever the target, ONNX Runtime is where its file will be looked at first
            floor = np.maximum(floor, bias_floor(layer, source.scale[0]))
        wanted = bits if isinstance(bits, int) else bits.get(name, 8)
        width = min(wanted, target.weight_bits)
        tensors[name] = _weights(layer, site.axis, width, scales, floor)
    readers = {name: tuple(sorted(nodes)) for name, nodes in placed.readers.items()}
    return QuantPlan(target.name, tensors, readers, tuple(placed.skips))


def _constant_ranges(graph: gs.Graph, placed: Placement) -> dict[str, tuple[float, float]]:
    """Constants among the activations, such as one side of a Mul, are their own observation."""
    tensors = graph.tensors()
    constants = {name: tensors[name] for name in placed.tensors if isinstance(tensors[name], gs.Constant)}
    return {
        name: (float(each.values.min(initial=0)), float(each.values.max(initial=0))) for name, each in constants.items()
    }


def _shared_ranges(ranges: Mapping[str, tuple[float, float]], placed: Placement) -> dict[str, tuple[float, float]]:
    """Ranges after tensors that share a scale have been given the union of theirs."""
    shared = {name: ranges[name] for name in placed.tensors}
    for group in placed.groups:
        members = [name for name in sorted(group) if name in shared]
        if members:
            low = min(shared[name][0] for name in members)
            high = max(shared[name][1] for name in members)
            shared.update(dict.fromkeys(members, (low, high)))
    return shared


def _activation(low: float, high: float, bits: int, target: Target, why: str) -> QuantParams:
    low, high = min(low, 0.0), max(high, 0.0)
    dtype = target.activation if bits <= 8 else target.activation.replace("8", "16")
    qmin, qmax = INTEGER_LIMITS[dtype]
    if bits < 8:
        from_zero = dtype == "uint8" or (target.symmetric and low == 0)
        qmin = 0 if from_zero else -(2 ** (bits - 1))
        qmax = qmin + 2**bits - 1
    if target.symmetric:
        lowest = qmin if bits < 8 else -qmax
        scale, zero_point = max(low / lowest if low else 0.0, high / qmax), 0
    else:
        scale = (high - low) / (qmax - qmin)
        zero_point = int(np.clip(qmin - round(low / scale), qmin, qmax)) if scale > SMALLEST_SCALE else qmin
    scale = float(np.float32(max(scale, SMALLEST_SCALE)))
    return QuantParams(dtype, bits, (scale,), (zero_point,), None, why, (qmin, qmax) if bits < 8 else None)


def _weights(layer: gs.Node, axis: int | None, bits: int, scales: Scales, floor: np.ndarray) -> QuantParams:
    grid = find_grid(kernels_of(layer), bits, scales, floor=floor, whole=axis is None)
    scale = tuple(map(float, grid.scale[:1] if axis is None else grid.scale))
    return QuantParams("int8", bits, scale, (0,) * len(scale), axis, f"weights of {layer.name}")


def bias_floor(layer: gs.Node, input_scale: float) -> np.ndarray:
    """The smallest weight scale at which the layer's bias still fits into int32, with a factor 4 to spare.

    round(bias / (input_scale * weight_scale)) must stay below 2^31: a channel with tiny weights and an ordinary bias
    would overflow and come out as anything.
    """
    if len(layer.inputs) < 3 or not isinstance(layer.inputs[2], gs.Constant):
        return np.zeros((), np.float32)
    bias = np.abs(layer.inputs[2].values).astype(np.float32)
    largest = bias.reshape(-1, bias.shape[-1]).max(0) if bias.ndim else bias  # a Gemm may have one for each row
    return largest / np.float32(input_scale * 2**29)
