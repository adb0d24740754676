"""Which ONNX operators the torch engine runs, and where their functions are.

An operator is one function beside this file::

    @operator("LeakyRelu", since=6)
    def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
        return F.leaky_relu(x, alpha)

Its signature is its contract. Positional parameters are the ONNX inputs, in order; keyword parameters are the
ONNX attributes with their defaults; a keyword annotated with ``Literal[...]`` accepts these values and no
others. Four keywords are not attributes but facts about the node, handed over when the function asks for
them:

    outputs       how many outputs the node lists; the function then returns a tuple of that many tensors
    op_type       the ONNX name, for a function that serves several operators
    input_types   the ONNX element type of every input, 0 where it is not known
    overwrite     whether the result may take the memory of the first input, which nothing else reads

The catalogue is read from the *source* of the operator files, not by importing them: ``unsupported`` must
answer without torch, and a second, handwritten list would sooner or later disagree with the functions.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import Any, TypeVar

import onnx

from onnxdfq.errors import OnnxdfqError

LATEST_OPSET = 28  # the newest ONNX opset whose changes the operator files have been checked against
_NO_NUMBERS = frozenset({onnx.TensorProto.STRING, onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128})
FACTS = frozenset({"outputs", "op_type", "input_types", "overwrite"})

Function = TypeVar("Function", bound=Callable[..., Any])


class UnsupportedOperator(OnnxdfqError):
    """A node the torch engine cannot run: the message names node, operator, version, the hint what can."""


@dataclass(frozen=True)
class Operator:
    """One operator over a range of opset versions, and the function that runs it."""

    domain: str
    name: str
    since: int
    until: int
    module: str
    function: str
    inputs: tuple[str, ...]
    variadic: bool
    attributes: Mapping[str, tuple[Any, ...] | None]  # accepted values; None where every value is
    facts: frozenset[str]
    host: frozenset[str]
    frozen: frozenset[str]
    shape_only: bool

    def load(self) -> Callable[..., Any]:
        """Import the operator's file (and so torch) and return its function."""
        return getattr(importlib.import_module(self.module), self.function)

    def input_name(self, position: int) -> str:
        """The parameter that takes the input at ``position``; empty for the tail of a variadic operator."""
        return self.inputs[position] if position < len(self.inputs) else ""


def operator(
    name: str,
    *,
    since: int,
    domain: str = "",
    host: tuple[str, ...] = (),
    frozen: tuple[str, ...] = (),
    shape_only: bool = False,
) -> Callable[[Function], Function]:
    """Mark a function as the implementation of ``domain``::``name`` from opset ``since`` on.

    It serves up to the opset before the next function that carries the same name. All arguments must be
    literals, as they are read from the source.

    host: inputs that are structure rather than data (a target shape, the bounds of a Clip). Where the model
        holds them as constants they arrive as Python numbers or lists and never become parameters.
    frozen: inputs that are never trained, such as the running statistics of a BatchNormalization.
    shape_only: the result depends on the shape of the first input alone, so that it folds once that is known.
    """
    return lambda function: function


@lru_cache(maxsize=1)
def catalogue() -> Mapping[tuple[str, str], tuple[Operator, ...]]:
    """All operators by (domain, name), each a tuple of version ranges in ascending order."""
    found: dict[tuple[str, str], list[Operator]] = {}
    for file in sorted(resources.files(__package__).iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".py"):
            for entry in _read(file.name.removesuffix(".py"), file.read_text(encoding="utf-8")):
                found.setdefault((entry.domain, entry.name), []).append(entry)
    return {key: _with_ranges(entries) for key, entries in found.items()}


def resolve(node: onnx.NodeProto, opsets: Mapping[str, int]) -> Operator:
    """The operator that runs ``node`` in a model that imports ``opsets`` (domain -> version).

    Raises UnsupportedOperator when there is none, or when the node asks for more than it can do.
    """
    domain = _plain(node.domain)
    version = _version(node, domain, opsets)
    title = f"{domain or 'ai.onnx'}::{node.op_type}"
    where = f'node "{node.name or next(iter(node.output), "")}": {title} version {version}'
    ranges = catalogue().get((domain, node.op_type), ())
    if not ranges:
        listed = f"onnxdfq.engine.operators.catalogue() lists the {len(catalogue())} it has"
        raise UnsupportedOperator(f"{where} is not supported", f"the engine has no {title}; {listed}")
    supported = f"supported: {title} versions {ranges[0].since} to {ranges[-1].until}"
    for entry in ranges:
        if entry.since <= version <= entry.until:
            reason = _objection(node, entry)
            if reason:
                raise UnsupportedOperator(f"{where} is not supported: {reason}", supported)
            return entry
    raise UnsupportedOperator(f"{where} is not supported", supported)


def unsupported(model: onnx.ModelProto) -> list[str]:
    """One line for each input and node the torch engine cannot run; empty when it can run all. Needs no torch."""
    model = inlined(model)
    return [*_unsupported_inputs(model.graph), *_unsupported_nodes(model.graph, opset_imports(model))]


def _unsupported_inputs(graph: onnx.GraphProto) -> Iterator[str]:
    for entry in graph.input:
        kind = entry.type.WhichOneof("value")
        if kind != "tensor_type" or entry.type.tensor_type.elem_type in _NO_NUMBERS:
            yield f'input "{entry.name}" is not supported: only tensors of real numbers and truth values are'


def _unsupported_nodes(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> Iterator[str]:
    for node in graph.node:
        try:
            resolve(node, opsets)
        except UnsupportedOperator as error:
            yield str(error)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _unsupported_nodes(attribute.g, opsets)


def opset_imports(model: onnx.ModelProto) -> dict[str, int]:
    """The opset versions that the model imports, by domain; the default domain is the empty string."""
    return {_plain(entry.domain): entry.version for entry in model.opset_import}


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions inlined; the model itself when it has none."""
    if not model.functions:
        return model
    from onnx import inliner

    return inliner.inline_local_functions(model)


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _version(node: onnx.NodeProto, domain: str, opsets: Mapping[str, int]) -> int:
    """The version in which the operator last changed; the opset itself where onnx does not know it."""
    opset = opsets.get(domain, 1)
    try:
        return onnx.defs.get_schema(node.op_type, opset, domain).since_version
    except onnx.defs.SchemaError:
        return opset


def _objection(node: onnx.NodeProto, entry: Operator) -> str:
    """What the node asks for beyond the function's signature; empty when nothing."""
    if len(node.input) > len(entry.inputs) and not entry.variadic:
        return f"it has {len(node.input)} inputs, {len(entry.inputs)} are known"
    if any(node.output[1:]) and "outputs" not in entry.facts:
        return f"output {next(filter(None, node.output[1:]))} is not computed"
    for attribute in node.attribute:
        if attribute.name not in entry.attributes:
            return f"attribute {attribute.name} is not known"
        accepted = entry.attributes[attribute.name]
        value = attribute_value(attribute) if accepted is not None else None
        if accepted is not None and value not in accepted:
            return f"{attribute.name} = {value}, but only {', '.join(map(str, accepted))} can run"
    return ""


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """An attribute as plain Python: numbers, text, lists of them, or a TensorProto."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [item.decode() for item in value]
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


def _with_ranges(entries: list[Operator]) -> tuple[Operator, ...]:
    """Each entry lasts until the next one begins, the last one until LATEST_OPSET."""
    entries = sorted(entries, key=lambda entry: entry.since)
    ends = [entry.since - 1 for entry in entries[1:]] + [LATEST_OPSET]
    return tuple(replace(entry, until=end) for entry, end in zip(entries, ends, strict=True))


def _read(stem: str, source: str) -> Iterator[Operator]:
    """The operators that a file declares, read from its syntax tree."""
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        parameters = function.args
        keywords = {parameter.arg: _accepted(parameter.annotation) for parameter in parameters.kwonlyargs}
        for decorator in function.decorator_list:
            if not (isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "operator"):
                continue
            options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in decorator.keywords}
            yield Operator(
                domain=options.get("domain", ""),
                name=ast.literal_eval(decorator.args[0]),
                since=options["since"],
                until=LATEST_OPSET,
                module=f"{__package__}.{stem}",
                function=function.name,
                inputs=tuple(parameter.arg for parameter in parameters.args),
                variadic=parameters.vararg is not None,
                attributes={name: accepted for name, accepted in keywords.items() if name not in FACTS},
                facts=FACTS & keywords.keys(),
                host=frozenset(options.get("host", ())),
                frozen=frozenset(options.get("frozen", ())),
                shape_only=options.get("shape_only", False),
            )


def _accepted(annotation: ast.expr | None) -> tuple[Any, ...] | None:
    """The values of a ``Literal[...]`` annotation; None for every other annotation."""
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) != "Literal":
        return None
    values = ast.literal_eval(annotation.slice)
    return values if isinstance(values, tuple) else (values,)
