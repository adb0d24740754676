"""Cross-layer equalization: give the output channels of a layer and the inputs that read them equal ranges.

    y = W2 f(W1 x + b1)  =  (W2 / s) f(s W1 x + s b1)         f(s z) = s f(z), s_j > 0 for each channel j between them
    s_j = sqrt(r2_j / r1_j)                                   r1: largest |W1[j, :]|, r2: largest |W2[:, j]|

    x -> A(W1, b1) -> Relu -> B(W2) -> y      becomes     x -> A(s W1, s b1) -> Relu -> B(W2 / s) -> y
    x -> A -> Clip(0, 6) -> B -> y            becomes     x -> A -> Relu -> Min(6 s) -> B -> y      (clips="scale")

Both ranges become sqrt(r1 r2). Layers have two neighbours each, so this is repeated until nothing moves (Nagel et al.
2019, section 4.1). A depthwise convolution is paired with the layer before it, and with the one behind it. The outputs
of the graph stay the same; only ranges within it change. Channels that are all but dead keep theirs. A normalization
that belongs to a layer is part of W1 and takes s; the scale of a LayerNormalization is a W1 of its own, equalized with
the layers that read it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult, Skip
from passes.channel_paths import ChannelPath, norm_of, path_of, written_by
from passes.correct_bias import bias_of
from passes.fold_batchnorm import ChannelStats
from passes.layer_kernels import as_stored, groups_of, kernels_of
from passes.placement import WEIGHTED

SETTLED = 1e-3  # no range moves by a larger share any more
MOST_ROUNDS = 100
DEAD = 1e-4  # of the largest range in a layer: what such a channel carries is its bias, which a factor would blow up


@dataclass(frozen=True)
class Equalize(Pass):
    """Equalize all pairs of a canonical graph. ``changed``: layers whose output channels were scaled.

    clips: "keep" leaves layers alone whose channels pass a Clip; "scale" gives it a bound for each channel.
    statistics: of the outputs of layers, as FoldBatchNorm records them; they follow the scaling.
    """

    name: ClassVar[str] = "equalize"
    clips: Literal["keep", "scale"] = "keep"
    statistics: MutableMapping[str, ChannelStats] = field(default_factory=dict)

    def __call__(self, graph: gs.Graph) -> PassResult:
        paths, skips = self._match(graph)
        nodes = {node.name: node for node in graph.nodes}
        names = {path.layer for path in paths} | {reader.layer for path in paths for reader in path.readers}
        layers = {name: ScaledLayer(nodes[name]) for name in nodes if name in names}
        _balance(paths, layers)
        for path in paths:
            factors = layers[path.layer].row_factors
            written = written_by(nodes[path.layer]).name
            if written in self.statistics:
                known = self.statistics[written]
                self.statistics[written] = ChannelStats(known.mean * factors, known.std * factors)
            for clip in path.clips:
                _scale_ceiling(graph, nodes[clip], factors)
        for layer in layers.values():
            layer.write()
        graph.toposort()
        return PassResult(len(paths), tuple(skips))

    def _match(self, graph: gs.Graph) -> tuple[list[ChannelPath], list[Skip]]:
        paths, skips = [], []
        for node in graph.nodes:
            if node.op not in (*WEIGHTED, "LayerNormalization") or not isinstance(node.inputs[1], gs.Constant):
                continue
            path = path_of(graph, node.name, through_depthwise=False)
            if isinstance(path, Skip):
                skips.append(replace(path, rule=self.name))
            elif path.clips and self.clips == "keep":
                skips.append(Skip(node.name, self.name, f"{path.clips[0]} clips its channels at one bound for all"))
            else:
                paths.append(path)
        return paths, skips


class ScaledLayer:
    """The largest |weight| of a layer between each two channels, and the factors that its channels have received.

    sizes: [O, I / groups], the normalization that belongs to the layer included. All ranges come from it, so weights
    are written once, at the end.
    """

    def __init__(self, layer: gs.Node) -> None:
        self.layer, self.norm, self.groups = layer, norm_of(layer), groups_of(layer)
        if layer.op == "LayerNormalization":
            self.sizes = np.abs(layer.inputs[1].values.reshape(-1, 1)).astype(np.float32)
        else:
            self.sizes = np.abs(kernels_of(layer)).max(-1, initial=0).astype(np.float32)
        if self.norm:
            gamma, variance = self.norm.inputs[1].values, self.norm.inputs[4].values
            self.sizes *= np.abs(gamma / np.sqrt(variance + self.norm.attrs.get("epsilon", 1e-5)))[:, None]
        self.row_factors = np.ones(len(self.sizes))
        self.column_factors = np.ones(self.groups * self.sizes.shape[1])

    def rows(self) -> np.ndarray:
        """The range of each output channel, [O]."""
        return self.sizes.max(1)

    def columns(self) -> np.ndarray:
        """The range of each input channel, [I]."""
        return self.sizes.reshape(self.groups, -1, self.sizes.shape[1]).max(1).reshape(-1)

    def scale_rows(self, factors: np.ndarray) -> None:
        self.sizes *= factors[:, None]
        self.row_factors *= factors

    def scale_columns(self, offset: int, factors: np.ndarray) -> None:
        every = np.ones_like(self.column_factors)
        every[offset : offset + len(factors)] = factors
        self.sizes *= self._spread(every)
        self.column_factors *= every

    def _spread(self, columns: np.ndarray) -> np.ndarray:
        """Factors of the input channels [I] as they meet the weights, [O, I / groups]."""
        return np.repeat(columns.reshape(self.groups, -1), len(self.sizes) // self.groups, axis=0)

    def write(self) -> None:
        """Multiply weights, bias and normalization by the factors."""
        layer = self.layer
        scaled = [(layer, 1), (layer, 2)] if layer.op == "LayerNormalization" else []
        if self.norm:
            scaled = [(self.norm, 1), (self.norm, 2)]
        elif not scaled and (place := bias_of(layer)):
            scaled = [place]
        for node, position in scaled:
            if position < len(node.inputs):
                held = node.inputs[position]
                held.values = (held.values * self.row_factors).astype(held.values.dtype)
        if layer.op == "LayerNormalization":
            return
        factors = self._spread(self.column_factors)
        if not self.norm:
            factors = factors * self.row_factors[:, None]
        weight = layer.inputs[1]
        kernels = kernels_of(layer) * factors[:, :, None].astype(weight.values.dtype)
        weight.values = as_stored(layer, kernels, weight.values.shape)


def _balance(paths: list[ChannelPath], layers: Mapping[str, ScaledLayer]) -> None:
    for _ in range(MOST_ROUNDS):
        moved = 0.0
        for path in paths:
            layer = layers[path.layer]
            ahead, count = layer.rows(), len(layer.sizes)
            behind = np.zeros(count, np.float32)
            for reader in path.readers:
                behind = np.maximum(behind, layers[reader.layer].columns()[reader.offset : reader.offset + count])
            alive = (ahead > DEAD * ahead.max()) & (behind > DEAD * behind.max())
            factors = np.sqrt(np.divide(behind, ahead, out=np.ones(count), where=alive))
            layer.scale_rows(factors)
            for reader in path.readers:
                layers[reader.layer].scale_columns(reader.offset, 1 / factors)
            moved = max(moved, float(np.abs(np.log(factors)).max()))
        if moved < SETTLED:
            return


def _scale_ceiling(graph: gs.Graph, clip: gs.Node, factors: np.ndarray) -> None:
    """Multiply the bound of a Clip or a Min by a factor for each channel; the Clip becomes a Relu and a Min."""
    data, written = clip.inputs[0], clip.outputs[0]
    column = factors.reshape(-1, *[1] * (len(data.shape) - 2))
    if clip.op == "Min":
        held = clip.inputs[1]
        high = held.values.reshape(-1, *[1] * (len(data.shape) - 2)) * column
        clip.inputs[1] = gs.Constant(held.name, high.astype(held.values.dtype))
        return
    high = clip.inputs[2].values
    bound = gs.Constant(f"{written.name}_high", (high * column).astype(high.dtype))
    below = clip.inputs[1].name != ""
    clip.inputs.clear()
    clip.outputs.clear()
    if below:
        rectified = gs.Variable(f"{written.name}_rectified", data.dtype, data.shape)
        graph.layer(op="Relu", name=f"{clip.name}_relu", inputs=[data], outputs=[rectified])
        data = rectified
    clip.op = "Min"
    clip.inputs = [data, bound]
    clip.outputs = [written]
