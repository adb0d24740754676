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

from collections.abc import Iterable

import onnx
from torch import Tensor, fx

from onnxdfq.engine.lowering import Shapes, graph_module, lower_model
from onnxdfq.engine.operators.registry import UnsupportedOperator, inlined, unsupported
from onnxdfq.engine.operators.values import to_onnx
from onnxdfq.errors import OnnxdfqError

__all__ = ["UnsupportedOperator", "lower", "tap", "unsupported", "write_back"]


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
    return lower_model(inlined(model), trainable, input_shapes or {})


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
    return graph_module(gm, graph, gm.meta["initializers"])


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
