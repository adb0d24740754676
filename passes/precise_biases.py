"""Biases of convolutions that run in float, where the runtime would round them.

    x -> DQ(s_x) -> Conv(DQ(W, s_W), b) -> Clip -> Q          the runtime rounds b to whole multiples of s_x s_W

    b = code * s_b + error       s_b = max |b| / 2^30        |error| <= s_b / 2

    DQ(x) -> Conv(DQ(W), b) -> Clip -> Q     becomes     DQ(x) -> Conv(DQ(W), DQ(code, s_b)) -> Clip -> Q

An integer kernel needs that bias, and the rounding is fine: s_x s_W is a small part of what 8 bits tell apart. With
few bits both scales are coarse. A convolution in front of a Clip to few codes is computed in float anyway; one that
reads few codes and writes 8 bits is better computed in float than with a bias that is off by a good part of a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult
from passes.freeze_weights import bias_of_product

FINEST = 2**30
COARSE = 0.5  # of a code that is written: 8-bit layers are far below, products of 4 bits by 4 bits are not
SMALLEST = 1e-38  # that float32 holds in full


@dataclass(frozen=True)
class PreciseBiases(Pass):
    """Put biases out of the runtime's reach, of convolutions that the rounding would harm."""

    name: ClassVar[str] = "precise-biases"

    def __call__(self, graph: gs.Graph) -> PassResult:
        changed = 0
        for node in [each for each in graph.nodes if each.op == "Conv"]:
            bias = bias_of_product(node)
            if bias is None or not (_clipped_to_few(node.outputs[0]) or _coarse(node)):
                continue
            largest = float(np.abs(bias.values).max(initial=0.0))
            scale = np.array(max(largest / FINEST, SMALLEST), np.float32)
            codes = np.rint(bias.values.astype(np.float64) / scale).astype(np.int32)
            held, step = gs.Constant(f"{bias.name}_{node.name}_codes", codes), f"{bias.name}_{node.name}_step"
            real = gs.Variable(f"{bias.name}_{node.name}_real", np.dtype(np.float32), codes.shape)
            graph.layer(op="DequantizeLinear", name=f"{node.name}_bias_DQ", inputs=[held, gs.Constant(step, scale)],
                        outputs=[real])  # fmt: skip
            node.inputs[2] = real
            changed += 1
        graph.cleanup().toposort()
        return PassResult(changed)


def _coarse(node: gs.Node) -> bool:
    """Whether a bias in steps of s_x s_W is coarse beside the codes that are written: then a float kernel is better."""
    written = node.outputs[0]
    readers = [*written.outputs, *(each for reader in written.outputs if reader.op in ("Relu", "Clip")
                                   for each in reader.outputs[0].outputs)]  # fmt: skip
    steps = [reader.inputs[1] for reader in readers if reader.op == "QuantizeLinear"]
    factors = [tensor.inputs[0].inputs[1] for tensor in node.inputs[:2]]
    if not steps or not all(isinstance(each, gs.Constant) for each in (*steps, *factors)):
        return False
    first, second = (each.values for each in factors)
    return bool(np.max(first * second) > COARSE * min(float(np.min(each.values)) for each in steps))


def _clipped_to_few(tensor: gs.Tensor) -> bool:
    """Whether a Clip reads the tensor that keeps to fewer codes than the quantizer behind it has: what no integer
    kernel does, while the runtime takes it for a quantizer that follows."""
    clips = [reader for reader in tensor.outputs if reader.op == "Clip"]
    pairs = [(clip, each) for clip in clips for each in clip.outputs[0].outputs if each.op == "QuantizeLinear"]
    return any(_narrower(clip, each) for clip, each in pairs)


def _narrower(clip: gs.Node, quantizer: gs.Node) -> bool:
    """Whether a Clip keeps to fewer codes than the quantizer behind it has. Unknown bounds count as wide."""
    constants = [*clip.inputs[1:3], *quantizer.inputs[1:3]]
    if len(constants) < 4 or not all(isinstance(each, gs.Constant) and each.values.size == 1 for each in constants):
        return False
    lowest, highest, scale, zero = (each.values.item() for each in constants)  # whatever the rank of such a number
    limits = np.iinfo(constants[3].values.dtype)
    low, high = (limits.min - zero) * scale, (limits.max - zero) * scale
    return bool(lowest > low + 0.5 * scale or highest < high - 0.5 * scale)
