"""How near a quantized network would come to the float one if a single layer of it were put back to float.

    x -> Q -> DQ -> layer(DQ(codes))      becomes      x -> layer(W)         and everything else stays;
                                          or           x -> Q -> DQ -> layer(W)  where kernels before it write codes

One short run for each layer: unlike the damage that bits do to weights (sensitivity.py), it knows what the codes of the
layer's input do as well, and what the other layers make of either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from onnxdfq.engine.ort import Session
from onnxdfq.verify.agreement import agreement


def distances_without(
    original: Session,
    quantized: onnx.ModelProto,
    floats: onnx.ModelProto,
    layers: Iterable[str],
    batches: Sequence[Mapping[str, np.ndarray]],
    inputs: bool,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Distance from ``original`` (see ``Agreement.distance``) with one of ``layers`` in float, by name of the node.

    quantized: weights in integers behind DequantizeLinear. floats: the same graph without Q and DQ, where the weights
    and biases are found. inputs: whether a layer in float reads its input in float as well.
    """
    held = {tensor.name: tensor for tensor in floats.graph.initializer}
    exact = {node.name: node for node in floats.graph.node}
    wanted, found = list(layers), {}
    for number, layer in enumerate(wanted, 1):
        weights = exact[layer].input[1]
        constants = [held[name] for name in exact[layer].input[1:] if name in held] if weights in held else []
        model = _with_float_layer(quantized, layer, constants, inputs)
        found[layer] = agreement(original, Session(model, as_written=True), {"": batches}).distance
        on_step(number, len(wanted))
    return found


def _with_float_layer(
    quantized: onnx.ModelProto, layer: str, constants: Sequence[onnx.TensorProto], inputs: bool
) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    writers = {name: node for node in model.graph.node for name in node.output}
    node = next(each for each in model.graph.node if each.name == layer)
    dequantize = writers.get(node.input[0])
    quantize = writers.get(dequantize.input[0]) if dequantize is not None and dequantize.input else None
    if inputs and quantize is not None and quantize.op_type == "QuantizeLinear":
        node.input[0] = quantize.input[0]
    if constants:
        del node.input[1:]  # a bias that the layer had none of was found for its codes
    for position, tensor in enumerate(constants, 1):
        name = f"{layer}.float.{position}"
        model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), name))
        node.input.append(name)
    return model
