"""A model as the rules of the linter see it: who writes and reads a tensor, and what each Q and DQ says.

The view works on the protobuf itself. Weights stay where they are, in the model or in a file beside it; what is read
is scales, zero-points and, one after the other, weights whose range a rule is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from passes.canonicalize import default_opset

Severity = Literal["error", "warning", "note"]

STANDARD = ("", "ai.onnx")
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
CONSTANT_FORMS = ("Identity", "Cast", "QuantizeLinear")  # of a constant they make another constant


@dataclass(frozen=True)
class Finding:
    """severity: "error" where a build fails or numbers come out wrong, "warning" where speed is lost, else "note".

    rule: an id of passes.lint.RULES. node: its name, or operator and output where it has none, "" for the whole model.
    """

    severity: Severity
    rule: str
    node: str
    message: str
    fix: str


@dataclass(frozen=True)
class Quantizer:
    """One QuantizeLinear or DequantizeLinear.

    data, output: names of what goes in and comes out. type: of the codes, "" where the file does not say.
    scale, zero: None when computed at run time; ``has_zero``: whether there is a zero-point at all.
    axis: the attribute, None without. block: the attribute block_size, 0 without.
    shape: of the data, None when unknown, with None for free dimensions.
    stored: the constant behind the data, through QuantizeLinear, Cast and Identity; None for an activation.
    """

    node: NodeProto
    label: str
    dequantizes: bool
    data: str
    output: str
    type: str
    scale: np.ndarray | None
    zero: np.ndarray | None
    has_zero: bool
    axis: int | None
    block: int
    shape: tuple[int | None, ...] | None
    stored: TensorProto | None

    @property
    def blocked(self) -> bool:
        """Whether there is a scale for each block of values along one axis."""
        return self.block > 0 or (self.scale is not None and self.scale.ndim > 1 and self.scale.size > 1)

    @property
    def per_channel(self) -> bool:
        return self.scale is not None and self.scale.size > 1 and not self.blocked

    @property
    def stored_type(self) -> str:
        """Type of the constant behind the data, "" for an activation."""
        return "" if self.stored is None else type_name(self.stored.data_type)


class View:
    """One graph of a model; the bodies of If and Loop are views of their own, that look into their surroundings.

    folder: where the model's other files are.
    """

    def __init__(
        self, model: onnx.ModelProto, folder: Path | None = None, graph: onnx.GraphProto | None = None,
        outer: View | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.graph = model.graph if graph is None else graph
        self.folder = folder
        self.outer = outer
        self.opset = default_opset(model)
        self.nodes: list[NodeProto] = [node for node in self.graph.node if node.output]
        self.outputs = {each.name for each in self.graph.output}
        self._constants = {each.name: each for each in self.graph.initializer}
        self._constants |= {node.output[0]: each for node in self.nodes if (each := _constant(node)) is not None}
        self._infos = {each.name: each for each in (*self.graph.input, *self.graph.value_info, *self.graph.output)}
        self._writers = {name: node for node in self.nodes for name in node.output if name}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(_reads(node)):
                self._readers.setdefault(name, []).append(node)

    def walk(self) -> Iterator[View]:
        """This view, and those of the graphs inside its nodes."""
        yield self
        for node in self.nodes:
            for graph in _graphs(node):
                yield from View(self.model, self.folder, graph, self).walk()

    # -- tensors

    def writer(self, name: str) -> NodeProto | None:
        """The node that writes a tensor; None for inputs and initializers."""
        found = self._writers.get(name)
        return self.outer.writer(name) if found is None and self.outer else found

    def readers(self, name: str) -> list[NodeProto]:
        """The nodes of this graph that read a tensor, those that read it inside a body included."""
        return self._readers.get(name, [])

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a tensor, None when it has several readers or is an output."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def constant(self, name: str) -> TensorProto | None:
        """The constant that a tensor is, as it is stored."""
        return self._behind(name, ("Identity",))

    def stored(self, name: str) -> TensorProto | None:
        """The constant that a tensor is, or is made of by Cast, QuantizeLinear or Identity."""
        return self._behind(name, CONSTANT_FORMS)

    def _behind(self, name: str, forms: tuple[str, ...]) -> TensorProto | None:
        """The constant from which a chain of such operators leads to a tensor."""
        for _ in self.nodes:  # no chain is longer, and a broken model may run in circles
            writer = self._writers.get(name)
            if name in self._constants or writer is None or writer.op_type not in forms or not writer.input:
                break
            name = writer.input[0]
        found = self._constants.get(name)
        if found is None and self.outer and name not in self._writers:
            return self.outer._behind(name, forms)
        return found

    def values(self, name: str) -> np.ndarray | None:
        """The values of a constant; None for what is computed."""
        tensor = self.constant(name)
        return None if tensor is None else self.read(tensor)

    def read(self, tensor: TensorProto) -> np.ndarray:
        """The values of a constant, from the file that holds them."""
        return numpy_helper.to_array(tensor, str(self.folder or ""))

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """The dimensions of a tensor as far as the file tells them, None for free ones."""
        tensor = self.stored(name)  # a Cast or a quantizer keeps the shape
        if tensor is not None:
            return tuple(tensor.dims)
        info = self._infos.get(name)
        if info is None:
            return self.outer.shape(name) if self.outer else None
        if not info.type.tensor_type.HasField("shape"):
            return None
        dims = info.type.tensor_type.shape.dim
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)

    # -- nodes

    def label(self, node: NodeProto) -> str:
        """How a person finds a node: by its name, or by its operator and what it writes."""
        return node.name or f"{node.op_type} -> {node.output[0]}"

    @cached_property
    def quantizers(self) -> list[Quantizer]:
        """All Q and DQ of this graph, ONNX's own and onnxruntime's."""
        known = (*STANDARD, "com.microsoft")
        found: list[Quantizer] = []
        types: dict[str, str] = {}  # of codes
        for node in self.nodes:
            if node.op_type in QUANTIZERS and node.domain in known and len(node.input) >= 2:
                found.append(self._quantizer(node, types))
                types[found[-1].output] = found[-1].type
        return found

    @cached_property
    def _by_output(self) -> dict[str, Quantizer]:
        return {each.output: each for each in self.quantizers}

    def quantizer(self, name: str) -> Quantizer | None:
        """The Q or DQ that writes a tensor."""
        found = self._by_output.get(name)
        return self.outer.quantizer(name) if found is None and self.outer else found

    def dequantizer(self, name: str) -> Quantizer | None:
        """The DQ that writes a tensor."""
        found = self.quantizer(name)
        return found if found is not None and found.dequantizes else None

    def activation(self, name: str) -> Quantizer | None:
        """The DQ that writes a tensor that is no constant."""
        found = self.dequantizer(name)
        return found if found is not None and found.stored is None else None

    def weights(self, node: NodeProto) -> tuple[Quantizer, list[int] | None] | None:
        """The DQ of the constant weights of a layer, and the order of the Transpose that may stand between the two."""
        if len(node.input) < 2:
            return None
        order, found = None, self.dequantizer(node.input[1])
        if found is None:
            writer = self.writer(node.input[1])
            if writer is None or writer.op_type != "Transpose":
                return None
            found = self.dequantizer(writer.input[0])
            if found is not None and found.stored is not None:
                order = attribute(writer, "perm", list(reversed(range(len(found.stored.dims)))))
        return None if found is None or found.stored is None else (found, order)

    def quantizes(self, node: NodeProto) -> bool:
        return node.op_type == "QuantizeLinear" and node.domain in (*STANDARD, "com.microsoft")

    def quantizer_after(self, name: str) -> Quantizer | None:
        """The Q that is the only reader of a tensor."""
        reader = self.only_reader(name)
        return self.quantizer(reader.output[0]) if reader is not None and self.quantizes(reader) else None

    def _quantizer(self, node: NodeProto, types: dict[str, str]) -> Quantizer:
        dequantizes = node.op_type == "DequantizeLinear"
        has_zero = len(node.input) > 2 and bool(node.input[2])
        zero = self.constant(node.input[2]) if has_zero else None
        return Quantizer(
            node=node,
            label=self.label(node),
            dequantizes=dequantizes,
            data=node.input[0],
            output=node.output[0],
            type=type_name(zero.data_type) if zero is not None else self._type(node, dequantizes, types),
            scale=self.values(node.input[1]),
            zero=self.values(node.input[2]) if has_zero else None,
            has_zero=has_zero,
            axis=attribute(node, "axis", None),
            block=attribute(node, "block_size", 0),
            shape=self.shape(node.input[0]),
            stored=self.stored(node.input[0]),
        )

    def _type(self, node: NodeProto, dequantizes: bool, types: dict[str, str]) -> str:
        """Type of the codes where no zero-point tells it."""
        if not dequantizes:
            number = attribute(node, "output_dtype", 0)
            return type_name(number) if number else ""
        data = self.constant(node.input[0])
        writer = self.writer(node.input[0])
        if data is not None:
            return type_name(data.data_type)
        if writer is not None and writer.op_type == "Cast":
            return type_name(attribute(writer, "to", 0))
        return types.get(node.input[0], "")


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute, or the default where the node does not have it."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def type_name(number: int) -> str:
    """int8, float16 and so on, as ONNX's numbers mean them."""
    return TensorProto.DataType.Name(number).lower()


def _constant(node: NodeProto) -> TensorProto | None:
    """What a Constant node holds, where it is numbers."""
    if node.op_type != "Constant" or node.domain not in STANDARD:
        return None
    value = node.attribute[0] if node.attribute else None
    if value is None:
        return None
    if value.name == "value":
        return value.t
    if value.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.asarray(helper.get_attribute_value(value), np.float32))
    if value.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.asarray(helper.get_attribute_value(value), np.int64))
    return None


def _graphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    for each in node.attribute:
        if each.type == AttributeProto.GRAPH:
            yield each.g
        elif each.type == AttributeProto.GRAPHS:
            yield from each.graphs


def _reads(node: NodeProto) -> Iterator[str]:
    """What a node reads, directly and in its bodies."""
    yield from (name for name in node.input if name)
    for graph in _graphs(node):
        for inner in graph.node:
            yield from _reads(inner)
        yield from (each.name for each in graph.output)
