"""Store weights of few bits in the space that they need; they run as fast as if they were stored in 8.

    W (int8) -> DQ -> Conv         becomes         W_int4 (int4) -> Cast(int8) -> DQ -> Conv

ONNX Runtime never fuses 4-bit integers that go straight into DequantizeLinear: it would dequantize them at every call.
The Cast of a constant it computes once, on loading, and what it then sees is the graph on the left: same codes, same
kernel, same result. Two codes share a byte, or four:

    codes in -8..7   int4, from opset 21         codes in -2..1   int2, from opset 25

Runs last: graphsurgeon passes packed constants through untouched, but spoils them when a pass reads their values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from passes.base import Pass, PassResult, Skip
from passes.opset import bring_to_opset

WORTH = 0.01  # of the weights' bytes: a newer opset for less would shut out older runtimes for nothing


@dataclass(frozen=True)
class PackWeights(Pass):
    """Pack int8 weights whose codes need fewer bits; the opset is raised as far as that saves space, and no further.

    packed_from: (bits, opset): containers that the runtime knows, and from which opset. newest: operators that it only
    runs in models up to some opset.
    """

    name: ClassVar[str] = "pack-weights"
    packed_from: tuple[tuple[int, int], ...]
    newest: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __call__(self, graph: gs.Graph) -> PassResult:
        narrow = {name: (weight.values.size, bits_of(weight.values)) for name, weight in _weights(graph).items()}
        reason = self._raise_opset(graph, narrow)
        taken = set(graph.tensors())
        changed, skips = 0, []
        for name, weight in _weights(graph).items():
            wanted, bits = self._container(narrow[name][1], None), self._container(narrow[name][1], graph.opset)
            if wanted < bits:
                layer = weight.outputs[0].outputs[0].outputs[0].name
                skips.append(Skip(layer, self.name, f"its {wanted}-bit weights are stored in {bits} bits: {reason}"))
            if bits < 8:
                _pack(graph, weight, bits, taken)
                changed += 1
        if changed:
            graph.cleanup().toposort()
        return PassResult(changed, tuple(skips))

    def _container(self, bits: int, opset: int | None) -> int:
        """Bits of the smallest container that holds so many, in a model of ``opset`` or, with None, of any."""
        known = [width for width, since in self.packed_from if opset is None or since <= opset]
        return min((width for width in known if width >= bits), default=8)

    def _raise_opset(self, graph: gs.Graph, narrow: Mapping[str, tuple[int, int]]) -> str:
        """Bring the graph to the opset that pays, and say why to none newer."""

        def stored(opset: int) -> int:
            return sum(packed_size(size, self._container(bits, opset)) for size, bits in narrow.values())

        whole, smallest, reason = sum(size for size, _ in narrow.values()), stored(graph.opset), ""
        worth: list[int] = []
        for opset in sorted(since for _, since in self.packed_from if since > graph.opset):
            saved = smallest - stored(opset)
            if saved and saved >= WORTH * whole:
                worth, smallest = [opset, *worth], stored(opset)
            elif saved:
                reason = f"opset {opset} would save {saved} of {whole} bytes"
        for opset in worth:
            try:
                self._check_runs(graph, opset)
                bring_to_opset(graph, opset)
                break
            except ValueError as error:
                reason = str(error)
        return reason

    def _check_runs(self, graph: gs.Graph, opset: int) -> None:
        """Raise ValueError if the runtime lacks an operator of this graph in models of ``opset``."""
        for each in (graph, *graph.subgraphs(recursive=True)):
            for node in each.nodes:
                if opset > self.newest.get(node.op, opset):
                    raise ValueError(f"the runtime has no {node.op} of opset {opset}")


def _weights(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Matrices and kernels in int8 that nobody reads but the DequantizeLinear of a layer."""
    outputs = {id(tensor) for tensor in graph.outputs}
    return {
        name: tensor
        for name, tensor in graph.tensors().items()
        if isinstance(tensor, gs.Constant)
        and tensor.dtype == np.int8
        and len(tensor.shape) >= 2
        and math.prod(tensor.shape)
        and id(tensor) not in outputs
        and all(_dequantizes(reader, tensor) for reader in tensor.outputs)
    }


def _dequantizes(node: gs.Node, codes: gs.Tensor) -> bool:
    read = node.op == "DequantizeLinear" and node.inputs[0] is codes
    return read and all(tensor is not codes for tensor in node.inputs[1:]) and bool(node.outputs[0].outputs)


def bits_of(codes: np.ndarray) -> int:
    """The fewest bits, 2 or more, that hold these integers in two's complement."""
    low, high = int(codes.min()), int(codes.max())
    return next(bits for bits in range(2, 65) if low >= -(1 << (bits - 1)) and high < 1 << (bits - 1))


def packed_size(elements: int, bits: int) -> int:
    """Bytes of so many integers of so many bits; the last byte may be filled in part."""
    return -(-elements * bits // 8)


def packed(name: str, codes: np.ndarray, bits: int) -> onnx.TensorProto:
    """Integers as an initializer of 4 or 2 bits each, the first in the lowest bits of the first byte."""
    each = 8 // bits
    digits = np.zeros((packed_size(codes.size, bits), each), np.uint8)
    digits.reshape(-1)[: codes.size] = codes.reshape(-1).astype(np.uint8) & ((1 << bits) - 1)
    content = np.bitwise_or.reduce(digits << (np.arange(each, dtype=np.uint8) * bits), axis=1).astype(np.uint8)
    return helper.make_tensor(name, getattr(TensorProto, f"INT{bits}"), codes.shape, content.tobytes(), raw=True)


def _pack(graph: gs.Graph, weight: gs.Constant, bits: int, taken: set[str]) -> None:
    name = f"{weight.name}_int{bits}"
    while name in taken:
        name += "_packed"
    taken.add(name)
    codes = gs.Variable(weight.name, np.dtype(np.int8), weight.shape)
    for reader in list(weight.outputs):
        reader.inputs[0] = codes
    held = gs.Constant(name, LazyValues(packed(name, weight.values, bits)))
    attrs = {"to": int(TensorProto.INT8)}
    graph.layer(op="Cast", name=f"{name}_Cast", inputs=[held], outputs=[codes], attrs=attrs)
