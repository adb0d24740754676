"""The element type of every tensor of a model."""

from __future__ import annotations

from contextlib import suppress

import onnx

_SMALL = 1024  # elements: shapes, axes and scales, on which the types and shapes of other tensors may depend


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """ONNX element types by tensor name, inside the branches of If as well; what onnx cannot infer is missing."""
    light = _without_weights(model)
    with suppress(onnx.shape_inference.InferenceError):  # a wrong declared shape, with which runtimes run all the same
        light = onnx.shape_inference.infer_shapes(light)
    found: dict[str, int] = {}
    _collect(light.graph, found)
    return found


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its large initializers turned into inputs, so that a large model is not copied."""
    graph = onnx.GraphProto(
        name="light",
        node=model.graph.node,
        input=model.graph.input,
        output=model.graph.output,
        value_info=model.graph.value_info,
    )
    inputs = {entry.name for entry in graph.input}
    for initializer in model.graph.initializer:
        size = 1
        for length in initializer.dims:
            size *= length
        if size <= _SMALL and initializer.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(initializer)
        elif initializer.name not in inputs:
            graph.input.append(
                onnx.helper.make_tensor_value_info(initializer.name, initializer.data_type, initializer.dims)
            )
    return onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)


def _collect(graph: onnx.GraphProto, found: dict[str, int]) -> None:
    for entry in (*graph.input, *graph.value_info, *graph.output):
        if entry.type.tensor_type.elem_type:
            found[entry.name] = entry.type.tensor_type.elem_type
    for initializer in graph.initializer:
        found[initializer.name] = initializer.data_type
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _collect(attribute.g, found)
