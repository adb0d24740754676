"""Let the next layer absorb what a channel never falls below: activations get smaller, and with them their range.

    x > c always:   Relu(x) = Relu(x - c) + c          c = max(0, mean - 3 std), for each channel
    W2 Relu(W1 u + b1) + b2  =  W2 Relu(W1 u + b1 - c) + (b2 + sum_k W2 c)

    A(b1) -> Relu -> B(b2)       becomes       A(b1 - c) -> Relu -> B(b2 + sum_k W2 c)

Exact wherever x > c; of a normal distribution 0.13 % lie below. Where B pads its input with zeros its border would not
see c, so such a layer absorbs nothing. High biases come from equalization (Nagel et al. 2019, section 4.1.3).
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult, Skip
from passes.channel_paths import norm_of, path_of, written_by
from passes.correct_bias import bias_of, shift_bias
from passes.fold_batchnorm import ChannelStats
from passes.layer_kernels import groups_of, kernels_of
from passes.placement import WEIGHTED

DEVIATIONS = 3


@dataclass(frozen=True)
class AbsorbHighBias(Pass):
    """Absorb the biases of all layers with known ``statistics`` (by the tensor they write), which follow the shift.

    ``changed``: layers of which at least one channel was shifted.
    """

    name: ClassVar[str] = "absorb-high-bias"
    statistics: MutableMapping[str, ChannelStats]

    def __call__(self, graph: gs.Graph) -> PassResult:
        changed, skips = 0, []
        outputs = {tensor.name for tensor in graph.outputs}
        for layer in [node for node in graph.nodes if node.op in WEIGHTED]:
            written = written_by(layer)
            stats = self.statistics.get(written.name)
            if stats is None:
                continue
            absorbed = np.maximum(stats.mean - DEVIATIONS * stats.std, 0)
            if not absorbed.any():
                continue
            reason = why_not(graph, layer, outputs)
            if reason:
                skips.append(Skip(layer.name, self.name, reason))
                continue
            _absorb(layer, absorbed)
            self.statistics[written.name] = ChannelStats(stats.mean - absorbed, stats.std)
            changed += 1
        return PassResult(changed, tuple(skips))


def why_not(graph: gs.Graph, layer: gs.Node, outputs: set[str]) -> str:
    """Why what reads a layer cannot absorb its bias; empty when it can."""
    path = path_of(graph, layer.name, through_depthwise=False)
    if isinstance(path, Skip):
        return path.reason
    if norm_of(layer) is None and bias_of(layer) is None:
        return "it has no place for a bias"
    rectifier = written_by(layer).outputs
    if len(rectifier) != 1 or rectifier[0].op != "Relu":
        return "its output is not rectified by a Relu alone"
    readers = rectifier[0].outputs[0].outputs
    for reader in readers:
        if reader.op not in WEIGHTED:
            return f"{reader.name} ({reader.op}) lies between it and the layer that would absorb"
        if any(reader.attrs.get("pads", [])) or reader.attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
            return f"{reader.name}, which reads it, pads with zeros"
        if reader.op == "ConvTranspose":
            return f"{reader.name}, which reads it, is transposed: its borders see fewer weights"
        if bias_of(reader) is None:
            return f"{reader.name}, which reads it, has no place for a bias"
    return ""


def _absorb(layer: gs.Node, absorbed: np.ndarray) -> None:
    norm = norm_of(layer)
    if norm:
        beta = norm.inputs[2]
        beta.values = (beta.values - absorbed).astype(beta.values.dtype)
    else:
        shift_bias(layer, -absorbed)
    for reader in written_by(layer).outputs[0].outputs[0].outputs:
        groups, kernels = groups_of(reader), kernels_of(reader).sum(-1)
        inputs = np.repeat(absorbed.reshape(groups, -1), len(kernels) // groups, axis=0)  # [O, I / groups]
        shift_bias(reader, reader.attrs.get("alpha", 1.0) * (kernels * inputs).sum(1))
