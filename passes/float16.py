"""Write what is not in integers in float16: for runtimes that compute in the type that is written.

    x -> Q(s) -> DQ(s) -> Conv(W, b) -> Softmax -> y                       all in float32

    x -> Cast -> Q(s') -> DQ(s') -> Conv(W', b') -> Softmax -> Cast -> y   between the Casts in float16

Some nodes stay in float32, with Casts around them: those that know no float16, those that compute with shapes (float16
counts in steps of 2 beyond 2048), and If and Loop. Some inputs of the others do, such as the scales of a Resize.

    float16 ends at 65504: constants beyond are cut to it       and steps by 6e-8: scales below are raised to it

where the codes of weights follow their scale, code' = round(code * s / s').
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from passes.base import Pass, PassResult, Skip
from passes.float16_nodes import HALF, SINGLE, HalfNode, fill_in_types, half_nodes
from passes.opset import bring_to_opset

OPSET = 19  # the first whose QuantizeLinear takes float16
LIMITS = np.finfo(np.float16)
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Float16(Pass):
    """Rewrite a graph, quantized or not. keep_io: inputs and outputs of the model stay in float32."""

    name: ClassVar[str] = "float16"
    keep_io: bool = True

    def __call__(self, graph: gs.Graph) -> PassResult:
        try:
            if any(node.op in QUANTIZERS for node in graph.nodes):
                bring_to_opset(graph, OPSET)
            fill_in_types(graph)
        except ValueError as error:
            return PassResult(0, (Skip(graph.name, self.name, f"the model stays in float32: {error}"),))
        rewriting = _Rewriting(graph, half_nodes(graph))
        rewriting.run(self.keep_io)
        return PassResult(len(rewriting.halves), tuple(Skip(node, self.name, why) for node, why in rewriting.notices))


@dataclass
class _Rewriting:
    """narrowed: ids of tensors that were float32 and are float16 now. exact: values of constants from before."""

    graph: gs.Graph
    halves: dict[int, HalfNode]
    narrowed: set[int] = field(default_factory=set)
    exact: dict[int, np.ndarray] = field(default_factory=dict)
    copies: dict[tuple[int, np.dtype], gs.Tensor] = field(default_factory=dict)
    notices: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = self.graph.tensors()  # kept, so that no tensor made later gets the id of one of these
        self.taken = set(self.before)
        self.full = self._read_in_full()

    def run(self, keep_io: bool) -> None:
        outputs = [tensor.dtype == SINGLE for tensor in self.graph.outputs]
        if not keep_io:
            for tensor in self.graph.inputs:
                if tensor.dtype == SINGLE:
                    self._narrow(tensor)
        for node in list(self.graph.nodes):
            self._node(node)
        for position, tensor in enumerate(self.graph.outputs):
            wanted = SINGLE if keep_io else HALF
            if outputs[position] and tensor.dtype != wanted and tensor.inputs:
                self.graph.outputs[position] = self._output(tensor, wanted)
        self.graph.cleanup().toposort()

    def _read_in_full(self) -> set[int]:
        """Ids of constants that somebody goes on reading in float32."""
        found = {id(tensor) for tensor in self.graph.outputs}
        for node in self.graph.nodes:
            half = self.halves.get(id(node))
            found |= {id(each) for k, each in enumerate(node.inputs) if half is None or k not in half.inputs}
            found |= {id(tensor) for body in node.subgraphs(True) for inner in body.nodes for tensor in inner.inputs}
        return found

    def _node(self, node: gs.Node) -> None:
        half = self.halves.get(id(node), HalfNode())
        for position, tensor in enumerate(node.inputs):
            if position in half.inputs:
                node.inputs[position] = self._in_half(tensor, node, node.op in QUANTIZERS and position == 1)
            elif id(tensor) in self.narrowed:
                node.inputs[position] = self._cast(tensor, SINGLE)
        if node.op == "DequantizeLinear" and 1 in half.inputs:
            self._follow_scale(node)
        for body in node.subgraphs(recursive=True):
            for inner in body.nodes:
                for position, tensor in enumerate(inner.inputs):
                    if id(tensor) in self.narrowed:
                        inner.inputs[position] = self._cast(tensor, SINGLE)
        for position in half.outputs:
            self._narrow(node.outputs[position])
        for attribute in ("to", "output_dtype"):
            if half.outputs and node.attrs.get(attribute) in (TensorProto.FLOAT, SINGLE, np.float32):
                node.attrs[attribute] = int(TensorProto.FLOAT16)

    def _narrow(self, tensor: gs.Tensor) -> None:
        tensor.dtype = HALF
        self.narrowed.add(id(tensor))

    def _in_half(self, tensor: gs.Tensor, reader: gs.Node, is_scale: bool) -> gs.Tensor:
        if not isinstance(tensor, gs.Constant):
            return tensor if tensor.dtype == HALF else self._cast(tensor, HALF)
        if tensor.dtype == HALF:
            return tensor
        if (id(tensor), HALF) in self.copies:
            return self.copies[id(tensor), HALF]
        values, notice = half_scale(tensor.values) if is_scale else half_values(tensor.values)
        if notice and not (is_scale and isinstance(reader.inputs[0], gs.Constant)):  # of weights the codes follow
            self.notices.append((reader.name, f"{tensor.name}: {notice}"))
        half = tensor
        if id(tensor) in self.full:
            half = self.copies[id(tensor), HALF] = gs.Constant(self._free(f"{tensor.name}_float16"), values)
        self.exact[id(half)] = tensor.values
        half.values = values
        return half

    def _follow_scale(self, node: gs.Node) -> None:
        """Let the codes of constant weights mean what they meant, where their scale had to change by much."""
        codes, scale = node.inputs[:2]
        before = self.exact.get(id(scale))
        if before is None or not isinstance(codes, gs.Constant) or codes.dtype != np.int8 or "block_size" in node.attrs:
            return
        shape = [1] * codes.values.ndim
        if scale.values.size > 1:
            shape[node.attrs.get("axis", 1)] = -1
        ratio = (before / scale.values.astype(np.float64)).reshape(shape if scale.values.ndim else ())
        follow = np.rint(codes.values * ratio).clip(-128, 127).astype(np.int8)
        moved = int((follow != codes.values).sum())
        if moved:
            why = f"{codes.name}: {moved} of {follow.size} codes were rounded again, for a scale that float16 can hold"
            self.notices.append((node.name, why))
            node.inputs[0] = gs.Constant(self._free(f"{codes.name}_float16"), follow)

    def _cast(self, tensor: gs.Tensor, wanted: np.dtype) -> gs.Tensor:
        key = (id(tensor), wanted)
        if key not in self.copies:
            self.copies[key] = gs.Variable(self._free(f"{tensor.name}_{wanted.name}"), wanted, tensor.shape)
            self._add_cast(tensor, self.copies[key])
        return self.copies[key]

    def _output(self, tensor: gs.Tensor, wanted: np.dtype) -> gs.Tensor:
        """An output of the model keeps its name: the tensor before the Cast gives it up."""
        output = gs.Variable(tensor.name, wanted, tensor.shape)
        tensor.name = self._free(f"{tensor.name}_{np.dtype(tensor.dtype).name}")
        self._add_cast(tensor, output)
        return output

    def _add_cast(self, tensor: gs.Tensor, written: gs.Tensor) -> None:
        attrs = {"to": helper.np_dtype_to_tensor_dtype(written.dtype)}
        self.graph.layer(op="Cast", name=f"{written.name}_Cast", inputs=[tensor], outputs=[written], attrs=attrs)

    def _free(self, name: str) -> str:
        while name in self.taken:
            name += "_h"
        self.taken.add(name)
        return name


def half_values(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Values in float16, and what is lost by it; infinities stay, a single number never becomes 0."""
    beyond = np.isfinite(values) & (np.abs(values) > LIMITS.max)
    half = np.where(beyond, np.copysign(LIMITS.max, values), values).astype(HALF)
    lost = (half == 0) & (values != 0)
    notices = []
    if beyond.any():
        notices.append(f"{int(beyond.sum())} of {values.size} values are beyond float16 and were cut to 65504")
    if lost.any() and values.size == 1:
        half = np.copysign(LIMITS.smallest_subnormal, values).astype(HALF)
        notices.append(f"{values.item():.3g} is below float16 and was raised to {LIMITS.smallest_subnormal:.3g}")
    elif lost.any():
        notices.append(f"{int(lost.sum())} of {values.size} values are below float16 and became 0")
    return half, "; ".join(notices)


def half_scale(scale: np.ndarray) -> tuple[np.ndarray, str]:
    """Scales in float16, above 0 always; rounded up where it counts in coarse steps, so that no code overflows."""
    half = scale.clip(LIMITS.smallest_subnormal, LIMITS.max).astype(HALF)
    coarse = (half < scale) & (scale < LIMITS.smallest_normal)
    half = np.where(coarse, np.nextafter(half, LIMITS.max), half)
    below, beyond = (int(each.sum()) for each in (scale < LIMITS.smallest_subnormal, scale > LIMITS.max))
    notices = [f"{below} of {scale.size} scales are below float16 and were raised to 6e-08"] if below else []
    notices += [f"{beyond} of {scale.size} scales are beyond float16 and were cut to 65504"] if beyond else []
    return half, "; ".join(notices)
