"""The walk that turns the nodes of an ONNX graph into calls of a torch.fx graph; ``lower`` is its public face."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import getitem
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from onnxdfq.engine.element_types import element_types
from onnxdfq.engine.operators.registry import Operator, attribute_value, opset_imports, resolve
from onnxdfq.engine.operators.values import outside_dtype, to_torch, torch_dtype
from onnxdfq.engine.qualified_names import qualified_names, safe_name
from onnxdfq.errors import OnnxdfqError

Value = Tensor | fx.Node  # a constant, or something computed at call time
Shapes = Mapping[str, tuple[int, ...]]
# Operators whose result is always new memory, and not read when gradients run back through them.
_DISPOSABLE = frozenset({"Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm"})


def lower_model(model: onnx.ModelProto, trainable: bool, shapes: Shapes) -> fx.GraphModule:
    """The module of a model without local functions; arguments and errors are those of ``lower``."""
    walk = _Walk(opset_imports(model), {})
    walk.frozen = walk.never_trained(model.graph)
    walk.types = element_types(model)
    walk.trainable = trainable
    walk.initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    walk.names = qualified_names(walk.initializers)
    inputs = [entry for entry in model.graph.input if entry.name not in walk.initializers]
    unknown = set(shapes) - {entry.name for entry in inputs}
    if unknown:
        raise OnnxdfqError(f"the model has no input {', '.join(sorted(unknown))}")
    for index, entry in enumerate(inputs):
        walk.add_input(index, entry, shapes.get(entry.name))
    with torch.no_grad():
        walk.add_nodes(model.graph.node)
    walk.graph.output(tuple(walk.outside(entry) for entry in model.graph.output))
    held = {name: walk.names[name] for name in walk.initializers if name in walk.held}
    return graph_module(walk.root, walk.graph, held)


def graph_module(root: nn.Module, graph: fx.Graph, initializers: Mapping[str, str]) -> fx.GraphModule:
    """A module that knows which of its tensors are initializers: ONNX name -> qualified name."""
    _overwrite(graph)
    gm = fx.GraphModule(root, graph)
    gm.meta["initializers"] = dict(initializers)
    # Each call reads every tensor by a path of submodules. Python finds them at once as plain attributes; the lookup of
    # nn.Module costs a small network more than a tenth of its time.
    for module in gm.modules():
        module.__dict__.update(module._modules)
    return gm


def _overwrite(graph: fx.Graph) -> None:
    """Let functions that can, put their result where their input was, if nothing else reads that."""
    for node in graph.nodes:
        if "overwrite" in node.kwargs:
            source = node.args[0]
            node.update_kwarg("overwrite", source.meta.get("disposable", False) and len(source.users) == 1)


class _Walk:
    """One walk over the nodes of a graph; what each ONNX tensor has become is in ``values``.

    A branch of an If that is chosen at call time is walked by a child of its own: whatever it takes from around the
    branch becomes one more input of the branch's module.
    """

    def __init__(self, opsets: Mapping[str, int], types: Mapping[str, int], outer: _Walk | None = None) -> None:
        self.opsets = opsets
        self.types = types
        self.outer = outer
        self.trainable = False
        self.initializers: dict[str, onnx.TensorProto] = {}  # that may be trained; those of branches are constants
        self.frozen: set[str] = set()
        self.names: dict[str, str] = {}
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[str, Value] = {}
        self.held: dict[str, fx.Node] = {}  # what the module stores, by ONNX name
        self.dry: dict[fx.Node, Tensor] = {}  # tensors without data, where the shape is known
        self.taken: dict[fx.Node, fx.Node] = {}  # placeholders of a child, and what they stand for outside

    def never_trained(self, graph: onnx.GraphProto) -> set[str]:
        """Initializers that an operator declares as no subject of training. Raises UnsupportedOperator."""
        found: set[str] = set()
        for node in reversed(graph.node):
            entry = resolve(node, self.opsets)
            found.update(name for i, name in enumerate(node.input) if entry.input_name(i) in entry.frozen)
            if node.op_type == "Identity" and node.output[0] in found:  # by which exporters share equal tensors
                found.add(node.input[0])
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    found |= self.never_trained(attribute.g)
        return found

    def add_input(self, index: int, entry: onnx.ValueInfoProto, shape: tuple[int, ...] | None) -> None:
        element_type = entry.type.tensor_type.elem_type
        inside, outside = torch_dtype(element_type), outside_dtype(element_type)
        # Node and parameter get one plain name: an ONNX name need not be one that Python can spell, and fx changes
        # those of built-in functions, possibly into the name of another parameter.
        node = self.graph.create_node("placeholder", f"input_{index}", name=f"input_{index}")
        if inside != outside:
            node = self.graph.call_method("to", (node, inside))
        self._computed(entry.name, node, None if shape is None else torch.empty(shape, dtype=inside, device="meta"))

    def add_nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            entry = resolve(node, self.opsets)
            if node.op_type == "If":
                self._add_if(node, entry)
            else:
                self._add_node(node, entry)

    def outside(self, entry: onnx.ValueInfoProto) -> fx.Node:
        """An output of the whole graph, in the type that ONNX promises: quantized tensors travel as floats."""
        node = self._stored(entry.name, self._value(entry.name))
        declared = entry.type.tensor_type.elem_type or self.types.get(entry.name, 0)
        if not declared or outside_dtype(declared) in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return node
        return self.graph.call_method("to", (node, outside_dtype(declared)))

    def _add_node(self, node: onnx.NodeProto, entry: Operator) -> None:
        function = entry.load()
        inputs = [self._input(entry, position, name) for position, name in enumerate(node.input)]
        if entry.shape_only and isinstance(inputs[0], fx.Node) and inputs[0] in self.dry:
            # A tensor of that shape, at the cost of one number: the values do not matter.
            inputs[0] = torch.zeros(()).expand(self.dry[inputs[0]].shape)
        facts = {
            "outputs": len(node.output),
            "op_type": node.op_type,
            "overwrite": False,  # decided when the graph is complete
            "input_types": tuple(self.types.get(name, 0) for name in node.input),
        }
        keywords = {attribute.name: _python(attribute) for attribute in node.attribute}
        keywords |= {name: facts[name] for name in sorted(entry.facts)}
        several = "outputs" in entry.facts
        if not any(isinstance(value, fx.Node) for value in inputs):
            result = function(*inputs, **keywords)
            self.values.update(zip(node.output, result if several else [result], strict=False))
            return
        arguments = tuple(self._stored(name, value) for name, value in zip(node.input, inputs, strict=True))
        keywords = {name: self._stored(f"{node.output[0]}.{name}", value) for name, value in keywords.items()}
        name = f"{node.op_type}_outputs" if several else node.output[0]
        call = self.graph.create_node("call_function", function, arguments, keywords, name=name)
        call.meta["disposable"] = node.op_type in _DISPOSABLE
        dry = self._dry_run(function, call)
        if several:
            self._parts(node, call, dry)
        else:
            self._computed(node.output[0], call, dry)

    def _add_if(self, node: onnx.NodeProto, entry: Operator) -> None:
        """A known condition chooses now, and the branch's nodes join the graph; else both become modules."""
        condition = self._value(node.input[0])
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        if isinstance(condition, Tensor):
            chosen = branches["then_branch" if bool(condition) else "else_branch"]
            self._add_constants(chosen)
            self.add_nodes(chosen.node)
            made = {name for inner in chosen.node for name in inner.output}
            for name, output in zip(node.output, chosen.output, strict=True):
                value = self.values[name] = self._value(output.name)
                if isinstance(value, fx.Node) and output.name in made:
                    value.meta["onnx_tensor"] = name
            return
        modules, taken = [], []
        for name in ("then_branch", "else_branch"):
            child = _Walk(self.opsets, self.types, outer=self)
            child._add_constants(branches[name])
            child.add_nodes(branches[name].node)
            outputs = tuple(child._stored(each.name, child._value(each.name)) for each in branches[name].output)
            child.graph.output(outputs)
            module = safe_name(f"{node.output[0]}.{name}", self.names.values())
            self.names[f"{node.output[0]}.{name}"] = module
            self.root.add_module(module, fx.GraphModule(child.root, child.graph))
            modules.append(self.graph.get_attr(module))
            taken.append(tuple(child.taken[entry] for entry in child.graph.nodes if entry.op == "placeholder"))
        keywords: dict[str, Any] = {"then_branch": modules[0], "else_branch": modules[1], "outputs": len(node.output)}
        name = f"{node.op_type}_outputs"
        call = self.graph.create_node("call_function", entry.load(), (condition, *taken), keywords, name=name)
        self._parts(node, call, None)

    def _add_constants(self, branch: onnx.GraphProto) -> None:
        self.values.update({initializer.name: to_torch(initializer) for initializer in branch.initializer})

    def _parts(self, node: onnx.NodeProto, call: fx.Node, dry: Any) -> None:
        """The outputs of a call that returns a tuple."""
        for index, output in enumerate(node.output):
            if output:
                part = self.graph.create_node("call_function", getitem, (call, index), name=output)
                self._computed(output, part, None if dry is None else dry[index])

    def _input(self, entry: Operator, position: int, name: str) -> Any:
        """An input of a node: None, plain Python (structure), a constant, or a node of the graph."""
        if not name:
            return None
        if entry.input_name(position) in entry.host:
            initializer = self._initializer(name)
            known = self._value(name) if initializer is None else to_torch(initializer)
            return known.tolist() if isinstance(known, Tensor) else known
        return self._value(name)

    def _initializer(self, name: str) -> onnx.TensorProto | None:
        if self.outer is None or name in self.values:
            return self.initializers.get(name)
        return self.outer._initializer(name)

    def _value(self, name: str) -> Value:
        if name in self.values:
            return self.values[name]
        if self.outer is not None:
            value = self._taken(name, self.outer._value(name), self.outer)
        else:  # an initializer, met for the first time
            tensor = to_torch(self.initializers[name])
            value = self._stored(name, tensor) if tensor.is_floating_point() else tensor
        self.values[name] = value
        return value

    def _taken(self, name: str, value: Value, outer: _Walk) -> Value:
        """What a child takes from around its branch: constants as they are, the rest through a placeholder."""
        if isinstance(value, Tensor):
            return value
        with self.graph.inserting_before():  # the beginning
            plain = f"outer_{len(self.taken)}"
            placeholder = self.graph.create_node("placeholder", plain, name=plain)
        self.taken[placeholder] = value
        self._computed(name, placeholder, outer.dry.get(value))
        return placeholder

    def _stored(self, name: str, value: Any) -> Any:
        """A constant tensor as a node that reads it from the module; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        if name not in self.held:
            if name not in self.names:
                self.names[name] = safe_name(name, self.names.values())
            qualified = self.names[name]
            trained = name in self.initializers and value.is_floating_point() and name not in self.frozen
            # Into memory of torch's own, which is aligned: math libraries round differently where it is not, and two
            # runs would not be equal.
            value = value.clone(memory_format=torch.contiguous_format)
            _place(self.root, qualified, value, trained, self.trainable)
            self.held[name] = self.graph.get_attr(qualified)
            self.held[name].meta["onnx_tensor"] = name
            self.dry[self.held[name]] = value.to("meta")
        return self.held[name]

    def _computed(self, name: str, node: fx.Node, dry: Tensor | None) -> None:
        node.meta["onnx_tensor"] = name
        self.values[name] = node
        if dry is not None:
            self.dry[node] = dry

    def _dry_run(self, function: Callable[..., Any], call: fx.Node) -> Any:
        """The result of a call as tensors without data; None where the shape is known at call time only."""
        if any(node not in self.dry for node in call.all_input_nodes):
            return None
        arguments, keywords = fx.node.map_arg((call.args, call.kwargs), self.dry.__getitem__)
        try:
            return function(*arguments, **keywords)
        except RuntimeError:  # the shape depends on values; a true mismatch will show when the module is called
            return None


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
