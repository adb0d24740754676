"""Turn float weights behind a quantizer into integers, and merge initializers that are equal.

W (float32) -> Q -> DQ -> Conv      becomes      W_quantized (int8) -> DQ -> Conv

code = clip(round_half_even(W / scale) + zero_point, qmin, qmax)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult
from passes.plan import INTEGER_LIMITS


@dataclass(frozen=True)
class FreezeWeights(Pass):
    """Replace every QuantizeLinear of a constant by its result."""

    name: ClassVar[str] = "freeze-weights"

    def __call__(self, graph: gs.Graph) -> PassResult:
        changed = 0
        for node in [each for each in graph.nodes if each.op == "QuantizeLinear"]:
            if not all(isinstance(tensor, gs.Constant) for tensor in node.inputs):
                continue
            weight, scale, zero = (tensor.values for tensor in node.inputs)
            codes = quantized(weight, scale, zero, node.attrs.get("axis"))
            written = node.outputs[0]
            node.outputs.clear()
            written.to_constant(codes)
            changed += 1
        _share_equal(graph)
        graph.cleanup()
        return PassResult(changed)


@dataclass(frozen=True)
class FreezeBiases(Pass):
    """Turn float biases of ``ops`` into int32, wherever both factors are dequantized with a zero-point of 0 for W."""

    name: ClassVar[str] = "freeze-biases"
    ops: frozenset[str]

    def __call__(self, graph: gs.Graph) -> PassResult:
        changed = 0
        for node in [each for each in graph.nodes if each.op in self.ops]:
            scales = _product_scales(node)
            if scales is None:
                continue
            bias = node.inputs[2]
            values, scales = np.broadcast_arrays(bias.values.astype(np.float64), scales)
            # in float64, for the largest int32 is no float32
            codes = np.rint(values / scales).clip(-(2**31), 2**31 - 1).astype(np.int32)
            held = gs.Constant(f"{bias.name}_quantized", codes)
            scale = gs.Constant(f"{bias.name}_scale", scales.copy())
            zero = gs.Constant(f"{bias.name}_zero_point", np.zeros_like(codes))
            real = gs.Variable(f"{bias.name}_dequantized", np.dtype(np.float32), codes.shape)
            inputs, name = [held, scale, zero], f"{bias.name}_DQ"
            graph.layer(op="DequantizeLinear", name=name, inputs=inputs, outputs=[real], attrs={"axis": 0})
            node.inputs[2] = real
            changed += 1
        graph.cleanup().toposort()
        return PassResult(changed)


def bias_of_product(node: gs.Node) -> gs.Constant | None:
    """The plain constant bias [C] of a node whose factors are both dequantized; None when it has none, or they are
    not."""
    if len(node.inputs) < 3 or not isinstance(node.inputs[2], gs.Constant) or node.inputs[2].values.ndim != 1:
        return None
    if node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0:
        return None
    factors = [tensor.inputs[0] if tensor.inputs else None for tensor in node.inputs[:2]]
    return node.inputs[2] if all(each is not None and each.op == "DequantizeLinear" for each in factors) else None


def _product_scales(node: gs.Node) -> np.ndarray | None:
    """scale_x * scale_W, [C] or a single one; None when the node is no integer product with a plain constant bias."""
    if bias_of_product(node) is None:
        return None
    first, second = (tensor.inputs[0].inputs[1].values for tensor in node.inputs[:2])
    return np.asarray(first * second, np.float32)


def quantized(weight: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int | None) -> np.ndarray:
    """Integer codes of ``weight``, as QuantizeLinear computes them: round half to even, saturate."""
    shape = [1] * weight.ndim
    if scale.ndim:
        shape[1 if axis is None else axis] = -1
    low, high = INTEGER_LIMITS[zero.dtype.name]
    codes = np.rint(weight / scale.reshape(shape)) + zero.reshape(shape).astype(np.float32)
    return np.clip(codes, low, high).astype(zero.dtype)


def _share_equal(graph: gs.Graph) -> None:
    """Constants of the same type, shape and values become one; scalars stay, as runtimes match patterns on them."""
    first: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
    for node in graph.nodes:
        for position, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and tensor.values.ndim >= 2:
                values = np.ascontiguousarray(tensor.values)
                key = (values.dtype.name, values.shape, hashlib.sha256(values.data).digest())
                node.inputs[position] = first.setdefault(key, tensor)
