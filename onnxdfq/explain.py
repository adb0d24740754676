"""Why a node reads integers or floats, and where each scale comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxdfq.errors import OnnxdfqError
from onnxdfq.model_file import is_quantized, read_model
from onnxdfq.retarget import dequantized_graph, stored_ranges
from passes.base import run_passes
from passes.canonicalize import CANONICAL, ConstantsToInitializers
from passes.fold_batchnorm import FoldBatchNorm
from passes.integer_forms import INTEGER_FORMS
from passes.placement import Placement, place
from passes.targets import TARGETS, Target


@dataclass(frozen=True)
class TensorFacts:
    """role: what it is to the node. state: how it is quantized, with scale and zero-point where the model has them."""

    name: str
    role: str
    state: str
    why: str


@dataclass(frozen=True)
class NodeFacts:
    """verdict: integers or float, and why."""

    node: str
    op: str
    verdict: str
    tensors: tuple[TensorFacts, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(path: Path, target_name: str, pattern: str | None = None) -> list[NodeFacts]:
    """Facts about the node of that name, about those that write a tensor of it, or about all nodes.

    path: a float model, or one with Q/DQ nodes; then scales are known. Raises OnnxdfqError for an unknown node.
    """
    target = TARGETS[target_name]
    model = read_model(path, quantized=True)
    scales: dict[str, str] = {}
    if is_quantized(model):
        quantized = gs.import_onnx(model)
        run_passes(quantized, [ConstantsToInitializers()])
        scales = _scales(quantized)
        graph, _ = dequantized_graph(model, path)
    else:
        graph = gs.import_onnx(model)
        run_passes(graph, [*CANONICAL, FoldBatchNorm(), *INTEGER_FORMS])
    placed = place(graph, target, stored_ranges(model, path))
    wanted = [node for node in graph.nodes if pattern in (None, node.name, *(each.name for each in node.outputs))]
    if not wanted:
        hint = f"`onnxdfq explain {path.name}` lists its nodes; BatchNormalization is folded by then"
        raise OnnxdfqError(f"the model has no node {pattern}", hint)
    return [_facts(node, placed, target, scales) for node in wanted]


def _facts(node: gs.Node, placed: Placement, target: Target, scales: dict[str, str]) -> NodeFacts:
    roles = [("input", tensor) for tensor in node.inputs] + [("output", tensor) for tensor in node.outputs]
    tensors = []
    for role, tensor in roles:
        if tensor.name in placed.weights:
            site = placed.weights[tensor.name]
            along = "one scale" if site.axis is None else f"a scale for each index of axis {site.axis}"
            state, why = f"int8 weights, {along}", f"weights of {site.layer}"
        elif tensor.name in placed.tensors:
            apart = role == "input" and node.name not in placed.readers.get(tensor.name, ())
            state = f"{target.activation}, but read in float here" if apart else target.activation
            why = placed.tensors[tensor.name]
            shared = next((group for group in placed.groups if tensor.name in group), set())
            why += f"; one scale with {', '.join(sorted(shared - {tensor.name}))}" if shared else ""
        elif isinstance(tensor, gs.Constant) or tensor.dtype not in (None, np.float32):
            continue
        else:
            state, why = "float", "nobody reads or writes it in integers"
        known = scales.get(tensor.name, "")
        tensors.append(TensorFacts(tensor.name, role, state + (f", {known}" if known else ""), why))
    return NodeFacts(node.name, node.op, verdict(node, placed, target), tuple(tensors))


def verdict(node: gs.Node, placed: Placement, target: Target) -> str:
    """Whether a node computes in integers on the target, and why not if it does not."""
    skip = next((skip.reason for skip in placed.skips if skip.node == node.name), "")
    layers = {site.layer for site in placed.weights.values()}
    if skip:
        return f"float: {skip}"
    if node.name in placed.integer or node.name in layers:
        return "weights in integers, computes in float" if target.weights_only else "integers"
    kind = target.rules.get(node.op)
    if node.op in target.absorbs:
        return "absorbed by the quantizer of its output, where that follows a layer"
    if kind is None:
        return f"float: {target.name} has no rule for {node.op}"
    return {
        "elementwise": "float: no operand comes from a layer in integers, or one is constant",
        "concat": "float: nobody behind it reads integers, or its inputs are not all quantized",
        "unary": "float: nobody behind it reads integers, or its input is not quantized",
        "same-scale": "float: nobody behind it reads integers, or its input is not quantized",
    }.get(kind, "float")


def _scales(graph: gs.Graph) -> dict[str, str]:
    """Scale and zero-point, in words, of every tensor that goes into a Q, and of constants behind a DQ."""
    found = {}
    for node in graph.nodes:
        constant = all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:])
        if node.op not in ("QuantizeLinear", "DequantizeLinear") or not constant:
            continue
        scale = np.atleast_1d(node.inputs[1].values).astype(float)
        zero = np.atleast_1d(node.inputs[2].values) if len(node.inputs) > 2 else np.zeros(1, int)
        if scale.size > 1:
            words = f"scales {scale.min():.3g} to {scale.max():.3g}"
        else:
            words = f"scale {scale[0]:.5g}, zero-point {int(zero[0])}"
        if node.op == "QuantizeLinear":
            name = node.inputs[0].name.removesuffix("_clipped")
            found[name] = found[name.removesuffix("_float")] = words
        else:
            found.setdefault(node.outputs[0].name.removesuffix("_dequantized"), words)
    return found
