"""Bring a graph into the one form that all other passes expect.

    Constant -> Conv           becomes    initializer -> Conv
    W -> Conv, W -> Gemm       becomes    W -> Conv, W_1 -> Gemm     (what one user changes, the other keeps)
    nodes without a name       become     nodes with a name of their own (plans and reports refer to it)

Initializers that are also graph inputs (IR 3 files list them so) are plain initializers afterwards: a quantized
weight that the caller could still feed in float would mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, version_converter

from passes.base import Pass, PassResult

MIN_OPSET = 13  # the first with per-axis QuantizeLinear
MAX_OPSET = 25  # the newest that TensorRT's parser reads
OLDEST_OPSET = 7


def raise_opset(model: onnx.ModelProto, minimum: int = MIN_OPSET) -> onnx.ModelProto:
    """The model at opset ``minimum`` or, if it is newer, as it is; IR version raised to fit.

    Raises ValueError when the opset is outside 7..25 or onnx's converter gives up.
    """
    opset = default_opset(model)
    if not OLDEST_OPSET <= opset <= MAX_OPSET:
        raise ValueError(f"opset {opset} is outside {OLDEST_OPSET}..{MAX_OPSET}")
    if opset < minimum:
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        try:
            model = version_converter.convert_version(model, minimum)
        except Exception as error:  # the converter raises bare RuntimeError and C++ errors alike
            raise ValueError(f"opset {opset} can't be raised to {minimum}: {str(error).splitlines()[0]}") from error
        helper.set_model_props(model, metadata)
    # Peers import domains of their own, used or not
    needed = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = max(model.ir_version, needed)
    return model


def default_opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model imports; 1 when it does not say."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


@dataclass(frozen=True)
class ConstantsToInitializers(Pass):
    """Constant nodes become initializers, so that weights are found in one place only."""

    name: ClassVar[str] = "constants-to-initializers"

    def __call__(self, graph: gs.Graph) -> PassResult:
        outputs = {id(tensor) for tensor in graph.outputs}
        constants = [node for node in graph.nodes if node.op == "Constant" and id(node.outputs[0]) not in outputs]
        changed = 0
        for node in constants:
            values = _constant_values(node)
            if values is not None:
                written = node.outputs[0]
                node.outputs.clear()  # graphsurgeon leaves the producer attached
                written.to_constant(values)
                changed += 1
        graph.cleanup()
        return PassResult(changed)


def _constant_values(node: gs.Node) -> np.ndarray | None:
    """The value of a Constant node; None for the text and sparse kinds, which stay nodes."""
    if "value" in node.attrs:
        value = node.attrs["value"]
        return np.asarray(value.values if isinstance(value, gs.Constant) else value)
    for attribute, dtype in (("value_float", np.float32), ("value_floats", np.float32),
                             ("value_int", np.int64), ("value_ints", np.int64)):  # fmt: skip
        if attribute in node.attrs:
            return np.asarray(node.attrs[attribute], dtype=dtype)
    return None


@dataclass(frozen=True)
class DropEmptyInputs(Pass):
    """Optional inputs that are left empty at the end of a node's list are left out."""

    name: ClassVar[str] = "drop-empty-inputs"

    def __call__(self, graph: gs.Graph) -> PassResult:
        changed = 0
        for node in graph.nodes:
            while node.inputs and isinstance(node.inputs[-1], gs.Variable) and node.inputs[-1].is_empty():
                del node.inputs[-1]
                changed += 1
        return PassResult(changed)


@dataclass(frozen=True)
class NameNodes(Pass):
    """Every node gets a name, and no two share one."""

    name: ClassVar[str] = "name-nodes"

    def __call__(self, graph: gs.Graph) -> PassResult:
        taken: set[str] = set()
        changed = 0
        for node in graph.nodes:
            base = node.name or f"{node.op}_{node.outputs[0].name if node.outputs else len(taken)}"
            fresh, suffix = base, 1
            while fresh in taken:
                fresh, suffix = f"{base}_{suffix}", suffix + 1
            taken.add(fresh)
            changed += fresh != node.name
            node.name = fresh
        return PassResult(changed)


# What a pass may rewrite, by operator: the positions of weights, biases and statistics.
PARAMETERS = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "Add": (0, 1),
    "BatchNormalization": (1, 2, 3, 4),
}  # fmt: skip


@dataclass(frozen=True)
class PrivateInitializers(Pass):
    """Each user of a shared parameter gets its own copy, so that one can change without the other.

    Copies that are still equal when the model is written are merged again (freeze_weights).
    """

    name: ClassVar[str] = "private-initializers"

    def __call__(self, graph: gs.Graph) -> PassResult:
        names = set(graph.tensors())
        top = {id(node) for node in graph.nodes}
        owned = {id(tensor) for node in graph.nodes for tensor in _elsewhere(node)}
        owned |= {id(tensor) for tensor in graph.outputs}
        for tensor in graph.tensors().values():  # the bodies of If and Loop read from outside
            if any(id(reader) not in top for reader in tensor.outputs):
                owned.add(id(tensor))
        changed = 0
        for node in graph.nodes:
            for position in PARAMETERS.get(node.op, ()):
                tensor = node.inputs[position] if position < len(node.inputs) else None
                if not isinstance(tensor, gs.Constant) or (len(tensor.outputs) < 2 and id(tensor) not in owned):
                    continue
                if id(tensor) not in owned:  # the first user keeps the original, unless it is no parameter to somebody
                    owned.add(id(tensor))
                    continue
                suffix = next(n for n in range(1, len(names) + 2) if f"{tensor.name}_{n}" not in names)
                names.add(f"{tensor.name}_{suffix}")
                node.inputs[position] = gs.Constant(f"{tensor.name}_{suffix}", tensor.values.copy())
                changed += 1
        return PassResult(changed)


def _elsewhere(node: gs.Node) -> list[gs.Tensor]:
    """What a node reads as data, not as a parameter."""
    parameters = PARAMETERS.get(node.op, ())
    return [tensor for position, tensor in enumerate(node.inputs) if position not in parameters]


CANONICAL: tuple[Pass, ...] = (ConstantsToInitializers(), DropEmptyInputs(), NameNodes(), PrivateInitializers())
