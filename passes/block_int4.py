"""Store the weights of matrix products in 4 bits, with a scale for each block; activations stay in float.

    x -> MatMul(W [K, N]) -> y       becomes       x -> MatMul -> y
                                                         |
                                     W_int4 [K, N] -> DQ(scale [K / block, N])

    code = round(W / scale), -7..7          scale = max |W| of block entries of one column / 7

Blocks lie along K, the axis that is summed over. Runtimes have kernels for this layout alone (ONNX Runtime:
MatMulNBits), so a Gemm that reads its weights transposed, as exports of torch do, gets them the other way round. There
is no zero-point: it is 0 where none is given, and parsers disagree on 4-bit ones.

Runs after everything that reads weights: graphsurgeon passes packed constants through, but spoils them when read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.base import Pass, PassResult, Skip
from passes.opset import bring_to_opset
from passes.pack_weights import packed

OPSET = 21  # the first with int4 and blocks
LARGEST = 7
SMALLEST_SCALE = 1e-10  # a block of zeros still needs a scale above zero


@dataclass(frozen=True)
class BlockInt4(Pass):
    """Rewrite MatMul and Gemm with constant float weights. layers: names of those to take, None for all of them."""

    name: ClassVar[str] = "block-int4"
    block: int = 128
    layers: Collection[str] | None = None

    def __call__(self, graph: gs.Graph) -> PassResult:
        skips, chosen = [], []
        for node in graph.nodes:
            if node.op in ("MatMul", "Gemm") and (self.layers is None or node.name in self.layers):
                reason = self._objection(node)
                if reason:
                    skips.append(Skip(node.name, self.name, reason))
                else:
                    chosen.append(node.name)
        if chosen:
            try:
                bring_to_opset(graph, OPSET)
            except ValueError as error:
                return PassResult(0, (*skips, *(Skip(name, self.name, str(error)) for name in chosen)))
        taken = set(graph.tensors())
        for node in [each for each in graph.nodes if each.name in chosen]:
            self._rewrite(graph, node, taken)
        graph.cleanup().toposort()
        return PassResult(len(chosen), tuple(skips))

    def _objection(self, node: gs.Node) -> str:
        """Why the weights of a layer stay as they are; empty when they do not."""
        data, weight = node.inputs[:2]
        if not isinstance(weight, gs.Constant) or isinstance(data, gs.Constant):
            return "its second operand is computed, or both are constant"
        if weight.dtype != np.float32 or len(weight.shape) != 2:
            return f"its weights are {weight.dtype} of {len(weight.shape)} axes, not a float32 matrix"
        if any(node.attrs.get(name, 1.0) != 1.0 for name in ("alpha", "beta")) or node.attrs.get("transA", 0):
            return "it scales or transposes its operands (alpha, beta, transA)"
        depth, width = weight.shape[::-1] if node.attrs.get("transB", 0) else weight.shape
        if depth % self.block:
            return f"{depth} input channels are no multiple of the block of {self.block}"
        if width % 2:
            return f"{width} output channels: two have to share a byte"
        if not np.isfinite(weight.values).all():
            return "its weights hold NaN or infinity"
        return ""

    def _rewrite(self, graph: gs.Graph, node: gs.Node, taken: set[str]) -> None:
        weight = node.inputs[1]
        matrix = weight.values.T if node.attrs.pop("transB", 0) else weight.values
        codes, scale = in_blocks(matrix, self.block)
        base = weight.name
        while taken & {f"{base}_{part}" for part in ("int4", "scale", "dequantized")}:
            base += "_b"
        held = gs.Constant(f"{base}_int4", LazyValues(packed(f"{base}_int4", codes, 4)))
        real = gs.Variable(f"{base}_dequantized", np.dtype(np.float32), codes.shape)
        taken.update((held.name, real.name, f"{base}_scale"))
        inputs, attrs = [held, gs.Constant(f"{base}_scale", scale)], {"axis": 0, "block_size": self.block}
        graph.layer(op="DequantizeLinear", name=f"{base}_DQ", inputs=inputs, outputs=[real], attrs=attrs)
        node.inputs[1] = real


def in_blocks(matrix: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [K, N] and scales [K / block, N] of a matrix [K, N]: nearest rounding, symmetric."""
    blocks = matrix.reshape(-1, block, matrix.shape[1])
    scale = np.maximum(np.abs(blocks).max(axis=1) / LARGEST, SMALLEST_SCALE).astype(np.float32)
    codes = np.rint(blocks / scale[:, np.newaxis]).clip(-LARGEST, LARGEST).astype(np.int8)
    return codes.reshape(matrix.shape), scale
