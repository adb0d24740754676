"""Layers that run in float, put out of reach of a runtime that would round their biases or their weights.

    x -> DQ(s_x) -> Conv(DQ(W, s_W), b) -> Clip -> Q      the runtime rounds b to whole multiples of s_x s_W
    x -> DQ(s_x) -> Conv(W, b) -> Clip -> Q               the runtime rounds W to 8 bits with one scale, and b as well

    b = code * s_b + error       s_b = max |b| / 2^30        |error| <= s_b / 2

    DQ(x) -> Conv(W, b) -> Clip -> Q     becomes     DQ(x) -> Conv(W, DQ(code, s_b)) -> Clip -> Q

It does so where the bias is a constant, and leaves a layer alone whose bias is not; the price is a bias that is
dequantized at every call. An integer kernel needs the rounded bias, and the rounding is fine: s_x s_W is a small part
of what 8 bits tell apart. With few bits both scales are coarse, while no time is to be won: layers between Clips to few
codes are computed in float, and the few others that read such are better computed there too than with biases that are
off. And a layer whose weights are in float was meant to stay there: one scale for all channels ruins depthwise
convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult
from passes.freeze_weights import bias_of_product

FINEST = 2**30
SMALLEST = 1e-38  # that float32 holds in full
ROUNDED = ("Conv", "ConvTranspose", "Gemm")  # whose weights in float the runtime rounds


@dataclass(frozen=True)
class PreciseBiases(Pass):
    """Put biases out of the runtime's reach, of layers that its rounding would harm. climbs: operators through which
    the runtime moves Q and DQ before it looks for such layers."""

    name: ClassVar[str] = "precise-biases"
    climbs: frozenset[str] = frozenset()

    def __call__(self, graph: gs.Graph) -> PassResult:
        changed = 0
        for node in list(graph.nodes):
            bias = _bias_in_float(node) if self._would_round(node) else _bias_among_few_codes(node)
            if bias is None or not np.isfinite(bias.values).all():
                continue
            largest = float(np.abs(bias.values).max(initial=0.0))
            scale = np.array(max(largest / FINEST, SMALLEST), np.float32)
            codes = np.rint(bias.values.astype(np.float64) / scale).astype(np.int32)
            held, step = gs.Constant(f"{bias.name}_{node.name}_codes", codes), f"{bias.name}_{node.name}_step"
            real = gs.Variable(f"{bias.name}_{node.name}_real", np.dtype(np.float32), codes.shape)
            graph.layer(op="DequantizeLinear", name=f"{node.name}_bias_DQ", inputs=[held, gs.Constant(step, scale)],
                        outputs=[real])  # fmt: skip
            node.inputs = [*node.inputs[:2], real]
            changed += 1
        graph.cleanup().toposort()
        return PassResult(changed)

    def _would_round(self, node: gs.Node) -> bool:
        """Whether the runtime would round the float weights of a layer: between DQ and Q, and on no other way out."""
        if node.op not in ROUNDED or not isinstance(node.inputs[1], gs.Constant) or node.inputs[1].dtype != np.float32:
            return False
        writer = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        while writer is not None and writer.op in self.climbs:
            writer = writer.inputs[0].inputs[0] if writer.inputs[0].inputs else None
        readers = node.outputs[0].outputs
        while len(readers) == 1 and readers[0].op in {"Relu", "Clip", *self.climbs}:
            readers = readers[0].outputs[0].outputs
        follows = len(readers) == 1 and readers[0].op == "QuantizeLinear"
        return writer is not None and writer.op == "DequantizeLinear" and follows


def _bias_in_float(node: gs.Node) -> gs.Constant | None:
    """The bias of a layer with float weights, zeros where it has none; None where the runtime leaves it alone."""
    if len(node.inputs) > 2 and node.inputs[2].name:
        given = node.inputs[2]
        return given if isinstance(given, gs.Constant) and given.values.ndim == 1 else None
    shape = node.inputs[1].shape
    channels = shape[0]
    if node.op == "ConvTranspose":
        channels = shape[1] * node.attrs.get("group", 1)
    elif node.op == "Gemm" and not node.attrs.get("transB", 0):
        channels = shape[1]
    return gs.Constant(f"{node.name}_no_bias", np.zeros(channels, np.float32))


def _bias_among_few_codes(node: gs.Node) -> gs.Constant | None:
    """The bias of a convolution that reads or writes few codes."""
    bias = bias_of_product(node) if node.op == "Conv" else None
    return bias if bias is not None and (_read_as_few(node.inputs[0]) or _written_as_few(node.outputs[0])) else None


def _written_as_few(tensor: gs.Tensor) -> bool:
    """Whether a Clip reads the tensor that keeps to fewer codes than the quantizer behind it has: what no integer
    kernel does, while the runtime takes it for a quantizer that follows."""
    clips = [reader for reader in tensor.outputs if reader.op == "Clip"]
    pairs = [(clip, each) for clip in clips for each in clip.outputs[0].outputs if each.op == "QuantizeLinear"]
    return any(_narrower(clip, each) for clip, each in pairs)


def _read_as_few(tensor: gs.Tensor) -> bool:
    """Whether a dequantized tensor holds fewer codes than its type has."""
    chain = [tensor]
    while len(chain) < 4 and chain[-1].inputs and chain[-1].inputs[0].inputs:
        chain.append(chain[-1].inputs[0].inputs[0])
    writers = [each.inputs[0] if each.inputs else None for each in chain]  # DequantizeLinear, QuantizeLinear, Clip
    if len(writers) < 3 or [getattr(each, "op", "") for each in writers[1:3]] != ["QuantizeLinear", "Clip"]:
        return False
    return _narrower(writers[2], writers[1])


def _narrower(clip: gs.Node, quantizer: gs.Node) -> bool:
    """Whether a Clip keeps to fewer codes than the quantizer behind it has. Unknown bounds count as wide."""
    constants = [*clip.inputs[1:3], *quantizer.inputs[1:3]]
    if len(constants) < 4 or not all(isinstance(each, gs.Constant) and each.values.size == 1 for each in constants):
        return False
    lowest, highest, scale, zero = (each.values.item() for each in constants)  # whatever the rank of such a number
    limits = np.iinfo(constants[3].values.dtype)
    low, high = (limits.min - zero) * scale, (limits.max - zero) * scale
    return bool(lowest > low + 0.5 * scale or highest < high - 0.5 * scale)
