"""All levels and what decides between them in one ONNX file, for images one by one: plain ONNX Runtime runs it.

    image -> level 0 -> scores -> Softmax -> TopK 2 -> difference >= threshold -> If
                                                       then: scores of level 0
                                                       else: level 1, and an If of its own where there is a level 2

    image -> router -> + leaning -> ArgMax -> Equal 0 -> If      then: level 0      else: Equal 1 -> If ...

An If takes one condition, so a file of this kind takes one image. Initializers stand in the outermost graph, those of
equal content once: branches see them. A second output says which level has answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain, count

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxdfq.dynamic.cascade import Cascade
from passes.canonicalize import default_opset
from passes.opset import bring_to_opset

CHOSEN = "level"  # the last output, which says which; level_2 where the model has one of that name
_Body = tuple[list[NodeProto], list[TensorProto], list[str]]  # nodes, constants, outputs
ALONE = 1024  # bytes; smaller constants stay in their branch, where folding of shapes and scales sees them at once


def with_cascade(models: Sequence[onnx.ModelProto], cascade: Cascade, *, probabilities: bool) -> onnx.ModelProto:
    """One model for one image from models with the same inputs and outputs, the cheapest first."""
    models = _alike(models)
    shared: dict[str, TensorProto] = {}

    def body(step: int) -> _Body:
        number = cascade.levels[step]
        nodes, constants, outputs = _inlined(models[number], f"level {number}/", shared)
        if step == len(cascade.thresholds):
            return nodes, constants, [*outputs, *_constant(number, nodes)]
        sure = _sure(outputs[0], cascade.thresholds[step], f"decide {number}/", probabilities)
        here: list[NodeProto] = []
        kept = [_copied(name, f"keep {number}/", here) for name in outputs] + _constant(number, here)
        written = [f"answer {number}/{place}" for place in range(len(outputs) + 1)]
        branches = {"then_branch": _branch(f"keep {number}", (here, [], kept), models[0]),
                    "else_branch": _branch(f"go on {number}", body(step + 1), models[0])}  # fmt: skip
        choice = helper.make_node("If", [f"decide {number}/sure"], written, f"choose {number}", **branches)
        return [*nodes, *sure, choice], constants, written

    return _model(models[0], *body(0), shared)


def with_router(levels: Sequence[onnx.ModelProto], router: onnx.ModelProto, leaning: np.ndarray) -> onnx.ModelProto:
    """The same, where ``router`` chooses: the largest of its numbers after ``leaning`` [L] has been added."""
    *levels, router = _alike([*levels, router])
    shared: dict[str, TensorProto] = {}
    nodes, constants, (numbers,) = _inlined(router, "router/", shared)
    nodes += [
        _value("router/leaning", np.asarray(leaning, np.float32)),
        helper.make_node("Add", [numbers, "router/leaning"], ["router/leant"], "router/lean"),
        helper.make_node("ArgMax", ["router/leant"], ["router/level"], "router/choose", axis=1, keepdims=0),
    ]

    def choice(number: int) -> _Body:
        if number == len(levels) - 1:
            return _level(number)
        equal = f"router/is {number}"
        written = [f"answer {number}/{place}" for place in range(len(levels[0].graph.output) + 1)]
        branches = {"then_branch": _branch(f"level {number}", _level(number), levels[0]),
                    "else_branch": _branch(f"other than {number}", choice(number + 1), levels[0])}  # fmt: skip
        chosen = [
            _value(f"router/{number}", np.array([number])),
            helper.make_node("Equal", ["router/level", f"router/{number}"], [equal], equal),
            helper.make_node("If", [equal], written, f"choose {number}", **branches),
        ]
        return chosen, [], written

    def _level(number: int) -> _Body:
        inside, held, outputs = _inlined(levels[number], f"level {number}/", shared)
        return inside, held, [*outputs, *_constant(number, inside)]

    chosen, _, written = choice(0)
    return _model(levels[0], [*nodes, *chosen], constants, written, shared)


def _alike(models: Sequence[onnx.ModelProto]) -> list[onnx.ModelProto]:
    """All at the newest opset of any of them. Raises ValueError where an operator can't be brought there."""
    newest = max(map(default_opset, models))
    found = []
    for model in models:
        if default_opset(model) < newest:
            graph = gs.import_onnx(model)
            bring_to_opset(graph, newest)
            model = gs.export_onnx(graph)
        found.append(model)
    return found


def _inlined(model: onnx.ModelProto, prefix: str, shared: dict[str, TensorProto]) -> _Body:
    """Nodes, small constants and outputs of a model under names of their own; large constants go to ``shared``."""
    inputs = {entry.name: entry.name for entry in model.graph.input}
    names, constants = dict(inputs), []
    for tensor in model.graph.initializer:
        content = tensor.SerializeToString(deterministic=True)
        copy = TensorProto()
        copy.CopyFrom(tensor)
        if len(content) < ALONE:
            copy.name = names[tensor.name] = prefix + tensor.name
            constants.append(copy)
            continue
        copy.name = ""
        copy.name = names[tensor.name] = "w" + hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest()
        shared[copy.name] = copy
    nodes = [_renamed(node, prefix, names) for node in model.graph.node]
    outputs = []
    for entry in model.graph.output:
        name = names.get(entry.name, prefix + entry.name)
        outputs.append(_copied(name, prefix, nodes) if entry.name in inputs else name)
    return nodes, constants, outputs


def _renamed(node: NodeProto, prefix: str, names: dict[str, str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = node.name and prefix + node.name
    for field in (copy.input, copy.output):
        field[:] = [name and names.get(name, prefix + name) for name in field]
    for attribute in copy.attribute:
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            inner = dict(names)
            for tensor in (*body.initializer, *body.input):  # those of the body hide outer ones of the same name
                inner[tensor.name] = tensor.name = prefix + tensor.name
            nodes = [_renamed(each, prefix, inner) for each in body.node]
            del body.node[:], body.value_info[:]
            body.node.extend(nodes)
            for entry in body.output:
                entry.name = inner.get(entry.name, prefix + entry.name)
    return copy


def _sure(scores: str, threshold: float, prefix: str, probabilities: bool) -> list[NodeProto]:
    """Whether the margin of scores [1, K, ...] is ``threshold`` or more, as in confidence.py."""
    node, part = helper.make_node, {name: prefix + name for name in
                                    ("row", "shares", "two", "k", "best", "places", "first", "second", "axis", "ends",
                                     "margin", "least", "sure", "zero", "one")}  # fmt: skip
    softmax = [] if probabilities else [node("Softmax", [part["row"]], [part["shares"]], part["shares"], axis=1)]
    ranked = part["row"] if probabilities else part["shares"]
    return [
        node("Flatten", [scores], [part["row"]], part["row"], axis=1),
        *softmax,
        _value(part["k"], np.array([2])),
        node("TopK", [ranked, part["k"]], [part["best"], part["places"]], part["best"], axis=1),
        _value(part["zero"], np.array([0])),
        _value(part["one"], np.array([1])),
        node("Gather", [part["best"], part["zero"]], [part["first"]], part["first"], axis=1),
        node("Gather", [part["best"], part["one"]], [part["second"]], part["second"], axis=1),
        node("Sub", [part["first"], part["second"]], [part["margin"]], part["margin"]),
        _value(part["least"], np.array([threshold], np.float32)),
        node("GreaterOrEqual", [part["margin"], part["least"]], [part["sure"]], part["sure"]),
    ]


def _value(name: str, values: np.ndarray) -> NodeProto:
    return helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(values))


def _constant(number: int, nodes: list[NodeProto]) -> list[str]:
    """The name of a tensor that holds the number of a level; the node that makes it is added."""
    nodes.append(_value(f"is level {number}", np.array([number])))
    return [f"is level {number}"]


def _copied(name: str, prefix: str, nodes: list[NodeProto]) -> str:
    written = f"{prefix}copy of {name}"
    nodes.append(helper.make_node("Identity", [name], [written], written))
    return written


def _branch(name: str, body: _Body, like: onnx.ModelProto) -> GraphProto:
    nodes, constants, outputs = body
    return GraphProto(name=name, node=nodes, initializer=constants, output=_typed(outputs, like))


def _typed(names: Sequence[str], like: onnx.ModelProto) -> list[ValueInfoProto]:
    """The outputs of the model for one image under these names, and behind them which level it was."""
    found = []
    for name, entry in zip(names, like.graph.output, strict=False):
        copy = ValueInfoProto()
        copy.CopyFrom(entry)
        copy.name = name
        if copy.type.tensor_type.shape.dim:
            copy.type.tensor_type.shape.dim[0].dim_value = 1
        found.append(copy)
    return [*found, helper.make_tensor_value_info(names[-1], TensorProto.INT64, [1])]


def _model(
    first: onnx.ModelProto,
    nodes: list[NodeProto],
    constants: list[TensorProto],
    written: list[str],
    shared: dict[str, TensorProto],
) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=first.ir_version, opset_import=first.opset_import, producer_name="onnxdfq")
    graph = model.graph
    graph.name = first.graph.name or "dynamic"
    graph.input.extend(first.graph.input)
    for entry in graph.input:
        if entry.type.tensor_type.shape.dim:
            entry.type.tensor_type.shape.dim[0].dim_value = 1
    names = [entry.name for entry in first.graph.output]
    taken = {*names, *(entry.name for entry in first.graph.input)}
    names.append(next(name for name in chain((CHOSEN,), (f"{CHOSEN}_{k}" for k in count(2))) if name not in taken))
    graph.node.extend(nodes)
    for name, inner in zip(names, written, strict=True):
        graph.node.append(helper.make_node("Identity", [inner], [name], f"output {name}"))
    graph.output.extend(_typed(names, first))
    graph.initializer.extend([*constants, *shared.values()])
    return model
