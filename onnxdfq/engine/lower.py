"""The torch engine: an ONNX graph as a torch.fx.GraphModule with gradients, and its weights written back.

    gm = lower(model)                      # float initializers are parameters, named as in the graph
    (logits,) = gm(image)
    (logits,), features = tap(gm, ["conv1_out"])(image)
    write_back(gm, model)                  # after training

Every ONNX node becomes one call of the function that operators/ registers for it. What is constant (Constant
nodes, integer initializers, and whatever follows from these alone) is computed once, here, and does not
appear in the graph.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from operator import getitem
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from onnxdfq.engine.operators.registry import (
    Operator,
    UnsupportedOperator,
    attribute_value,
    inlined,
    opset_imports,
    resolve,
    unsupported,
)
from onnxdfq.engine.operators.values import to_onnx, to_torch, torch_dtype
from onnxdfq.errors import OnnxdfqError

__all__ = ["UnsupportedOperator", "autocast", "lower", "tap", "unsupported", "write_back"]

Value = Tensor | fx.Node  # a constant, or something computed at call time
Shapes = Mapping[str, tuple[int, ...]]


def lower(model: onnx.ModelProto, *, trainable: bool = True, input_shapes: Shapes | None = None) -> fx.GraphModule:
    """Turn a model into a torch module whose forward takes the model's inputs in order and returns a tuple.

    Floating point initializers become parameters (``requires_grad=trainable``) under their own names, dots
    nesting: ``gm.get_parameter("conv1.weight")``. ``gm.meta["initializers"]`` maps every initializer that the
    module holds to its qualified name, which differs only where torch cannot hold the name. Running
    statistics of BatchNormalization and integers become buffers. Numbers that are structure (Reshape shapes,
    Clip bounds, Resize scales, Pow exponents) are read once and held nowhere.

    input_shapes: shapes by input name. With it the module is made for these shapes, and everything computed
        from them is folded; without it Shape runs at call time and any shape the graph allows may be given.

    A node of the module stores the ONNX name of its value in ``node.meta["onnx_tensor"]``. The output of
    QuantizeLinear is a float tensor of whole numbers, except as an output of the graph, where it has its ONNX
    type.

    Modules can be copied and moved as any other, but not pickled: what is worth keeping is written back to
    the model.

    Raises UnsupportedOperator for a node that cannot run, OnnxdfqError for a tensor type torch does not have.
    """
    return _Lowering(inlined(model), trainable, input_shapes or {}).run()


def tap(gm: fx.GraphModule, tensors: Iterable[str]) -> fx.GraphModule:
    """A module that shares gm's parameters and returns (outputs, {name: value}) for the ONNX tensors named.

    Raises OnnxdfqError for a tensor that is not computed at call time: unknown, or folded as a constant.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    outputs = graph.graph_copy(gm.graph, copies)
    by_name = {node.meta["onnx_tensor"]: copy for node, copy in copies.items() if "onnx_tensor" in node.meta}
    wanted = list(tensors)
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise OnnxdfqError(f"no tensor to tap: {', '.join(missing)}", "constants and unknown names cannot be tapped")
    graph.output((outputs, {name: by_name[name] for name in wanted}))
    return _module(gm, graph, gm.meta["initializers"])


def write_back(gm: fx.GraphModule, model: onnx.ModelProto) -> None:
    """Copy gm's floating point parameters and statistics into the initializers of ``model``, keeping their
    types.

    Raises OnnxdfqError when the model lacks an initializer that gm holds.
    """
    held: dict[str, Tensor] = dict(gm.named_parameters())
    held.update(gm.named_buffers())
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    for name, qualified in gm.meta["initializers"].items():
        if name not in initializers:
            raise OnnxdfqError(f"the model has no initializer {name} to write to")
        if held[qualified].is_floating_point():
            target = initializers[name]
            documentation = target.doc_string
            target.CopyFrom(to_onnx(held[qualified], name, target.data_type))
            target.doc_string = documentation


def autocast(device: torch.device | str) -> AbstractContextManager[Any]:
    """Mixed precision where the hardware computes faster in it; elsewhere a context that does nothing."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.autocast(kind, torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    capabilities = torch.cpu.get_capabilities() if kind == "cpu" else {}
    if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"):
        return torch.autocast(kind, torch.bfloat16)
    return nullcontext()


class _Lowering:
    """One walk over the nodes of a model; what each ONNX tensor has become is in ``values``."""

    def __init__(self, model: onnx.ModelProto, trainable: bool, shapes: Shapes) -> None:
        self.source = model.graph
        opsets = opset_imports(model)
        self.operators = [(node, resolve(node, opsets)) for node in model.graph.node]
        self.trainable = trainable
        self.shapes = shapes
        self.initializers = {initializer.name: initializer for initializer in model.graph.initializer}
        self.types = {name: initializer.data_type for name, initializer in self.initializers.items()}
        self.frozen = {
            name
            for node, entry in self.operators
            for position, name in enumerate(node.input)
            if entry.input_name(position) in entry.frozen
        }
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.names = _qualified_names(self.initializers)
        self.values: dict[str, Value] = {}
        self.held: dict[str, fx.Node] = {}  # what the module stores, by ONNX name
        self.dry: dict[fx.Node, Tensor] = {}  # tensors without data, where the shape is known

    def run(self) -> fx.GraphModule:
        inputs = [entry for entry in self.source.input if entry.name not in self.initializers]
        unknown = set(self.shapes) - {entry.name for entry in inputs}
        if unknown:
            raise OnnxdfqError(f"the model has no input {', '.join(sorted(unknown))}")
        for index, entry in enumerate(inputs):
            self._add_input(index, entry)
        with torch.no_grad():
            for node, operator in self.operators:
                self._add_node(node, operator)
        self.graph.output(tuple(self._output(entry) for entry in self.source.output))
        held = {name: self.names[name] for name in self.initializers if name in self.held}
        return _module(self.root, self.graph, held)

    def _add_input(self, index: int, entry: onnx.ValueInfoProto) -> None:
        self.types[entry.name] = entry.type.tensor_type.elem_type
        dtype = torch_dtype(self.types[entry.name])
        shape = self.shapes.get(entry.name)
        dry = None if shape is None else torch.empty(shape, dtype=dtype, device="meta")
        # The parameter gets a plain name, for an ONNX name need not be one that Python can spell.
        node = self.graph.create_node("placeholder", f"input_{index}", name=entry.name)
        self._computed(entry.name, node, dry)

    def _add_node(self, node: onnx.NodeProto, entry: Operator) -> None:
        function = entry.load()
        inputs = [self._input(entry, position, name) for position, name in enumerate(node.input)]
        if entry.shape_only and isinstance(inputs[0], fx.Node) and inputs[0] in self.dry:
            # A tensor of that shape, at the cost of one number: the values do not matter.
            inputs[0] = torch.zeros(()).expand(self.dry[inputs[0]].shape)
        facts = {
            "outputs": len(node.output),
            "op_type": node.op_type,
            "input_types": tuple(self.types.get(name, 0) for name in node.input),
        }
        keywords = {attribute.name: _python(attribute) for attribute in node.attribute}
        keywords |= {name: facts[name] for name in sorted(entry.facts)}
        if node.op_type == "Constant":  # integers below a byte are carried in one: keep their type
            self.types[node.output[0]] = node.attribute[0].t.data_type

        if not any(isinstance(value, fx.Node) for value in inputs):
            self._folded(node, entry, function(*inputs, **keywords))
            return
        arguments = tuple(self._stored(name, value) for name, value in zip(node.input, inputs, strict=True))
        keywords = {name: self._stored(f"{node.output[0]}.{name}", value) for name, value in keywords.items()}
        several = "outputs" in entry.facts
        name = f"{node.op_type}_outputs" if several else node.output[0]
        call = self.graph.create_node("call_function", function, arguments, keywords, name=name)
        dry = self._dry_run(function, call)
        if not several:
            self._computed(node.output[0], call, dry)
            return
        for index, output in enumerate(node.output):
            if output:
                part = self.graph.create_node("call_function", getitem, (call, index), name=output)
                self._computed(output, part, None if dry is None else dry[index])

    def _input(self, entry: Operator, position: int, name: str) -> Any:
        """An input of a node: None, plain Python (structure), a constant, or a node of the graph."""
        if not name:
            return None
        if entry.input_name(position) in entry.host:
            known = to_torch(self.initializers[name]) if name in self.initializers else self.values[name]
            return known.tolist() if isinstance(known, Tensor) else known
        return self._value(name)

    def _value(self, name: str) -> Value:
        if name not in self.values:  # an initializer, met for the first time
            tensor = to_torch(self.initializers[name])
            self.values[name] = self._stored(name, tensor) if tensor.is_floating_point() else tensor
        return self.values[name]

    def _stored(self, name: str, value: Any) -> Any:
        """A constant tensor as a node that reads it from the module; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        if name not in self.held:
            qualified = self.names.setdefault(name, _safe_name(name, self.names.values()))
            trained = name in self.initializers and value.is_floating_point() and name not in self.frozen
            # Into memory of torch's own, which is aligned: math libraries round differently where it is not, and two
            # runs would not be equal.
            value = value.clone(memory_format=torch.contiguous_format)
            _place(self.root, qualified, value, trained, self.trainable)
            self.held[name] = self.graph.get_attr(qualified)
            self.held[name].meta["onnx_tensor"] = name
            if self.shapes:
                self.dry[self.held[name]] = value.to("meta")
        return self.held[name]

    def _computed(self, name: str, node: fx.Node, dry: Tensor | None) -> None:
        node.meta["onnx_tensor"] = name
        self.values[name] = node
        if dry is not None:
            self.dry[node] = dry

    def _folded(self, node: onnx.NodeProto, entry: Operator, result: Any) -> None:
        self.values.update(zip(node.output, result if "outputs" in entry.facts else [result], strict=False))

    def _dry_run(self, function: Callable[..., Any], call: fx.Node) -> Any:
        """The result of a call as tensors without data; None where the shape is known at call time only."""
        if any(node not in self.dry for node in call.all_input_nodes):
            return None
        arguments, keywords = fx.node.map_arg((call.args, call.kwargs), self.dry.__getitem__)
        try:
            return function(*arguments, **keywords)
        except RuntimeError:  # the shape depends on values; a true mismatch will show when the module is called
            return None

    def _output(self, entry: onnx.ValueInfoProto) -> fx.Node:
        node = self._stored(entry.name, self._value(entry.name))
        declared = entry.type.tensor_type.elem_type
        if not declared or torch_dtype(declared).is_floating_point:
            return node
        # Quantized tensors travel as floats; outside the graph they are the integers that ONNX promises.
        return self.graph.call_method("to", (node, torch_dtype(declared)))


def _module(root: nn.Module, graph: fx.Graph, initializers: Mapping[str, str]) -> fx.GraphModule:
    gm = fx.GraphModule(root, graph)
    gm.meta["initializers"] = dict(initializers)
    return gm


def _python(attribute: onnx.AttributeProto) -> Any:
    value = attribute_value(attribute)
    return to_torch(value) if isinstance(value, onnx.TensorProto) else value


def _place(root: nn.Module, qualified: str, tensor: Tensor, trained: bool, trainable: bool) -> None:
    """Put a tensor into the tree of modules, making the modules on the way."""
    *path, leaf = qualified.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if trained:
        root.register_parameter(leaf, nn.Parameter(tensor, requires_grad=trainable))
    else:
        root.register_buffer(leaf, tensor)


_RESERVED = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def _qualified_names(names: Iterable[str]) -> dict[str, str]:
    """A qualified name for each initializer: its own where torch can hold it, else a safe one."""
    names = list(names)
    prefixes = {".".join(parts[:end]) for parts in (name.split(".") for name in names) for end in range(1, len(parts))}
    qualified = {name: name for name in names if name not in prefixes and all(map(_holdable, name.split(".")))}
    for name in names:
        if name not in qualified:
            qualified[name] = _safe_name(name, qualified.values())
    return qualified


def _holdable(part: str) -> bool:
    """Whether torch accepts this as an attribute, and the code that fx generates can spell it."""
    return bool(re.fullmatch(r'[^"\\\n\r]+', part)) and part not in _RESERVED and not keyword.iskeyword(part)


def _safe_name(name: str, taken: Iterable[str]) -> str:
    """A name without dots that is neither taken nor the beginning of one that is."""
    first = {other.split(".")[0] for other in taken}
    base = "tensor_" + re.sub(r"\W", "_", name, flags=re.ASCII)
    return base if base not in first else next(n for i in count(2) if (n := f"{base}_{i}") not in first)
