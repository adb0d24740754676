"""The float model where rounding has left it: weights in the cells of the codes that they got, biases as shifted.

    W' = clamp(W, (code - 0.3) scale, (code + 0.3) scale)

From there training finds its way to another code as easily as from W, but begins with the codes that rounding chose.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxdfq.tune.fake_quantize import INSIDE
from passes.correct_bias import bias_of
from passes.weight_quantizer import weight_quantizer


def with_rounded(
    model: onnx.ModelProto, quantized: onnx.ModelProto, layers: list[str]
) -> tuple[onnx.ModelProto, frozenset[str]]:
    """A copy of ``model`` with these values of its ``layers`` (names of nodes), and the names of their biases.

    quantized: the same graph with Q and DQ in it, weights in float and on their grids.
    """
    graph = gs.import_onnx(model)
    originals = {node.name: node for node in graph.nodes}
    found = {node.name: node for node in gs.import_onnx(quantized).nodes}
    biases = set()
    for name in layers:
        layer, rounded = originals[name], found[name]
        place = weight_quantizer(rounded)
        if not isinstance(place, str):
            scale = place.column(place.scale.values)
            codes = np.rint(place.weights.values / scale)
            steps = np.clip(layer.inputs[1].values / scale, codes - INSIDE, codes + INSIDE)
            layer.inputs[1].values = (steps * scale).astype(np.float32)
        ours, theirs = bias_of(layer), bias_of(rounded)
        if ours is None or theirs is None or theirs[1] == len(theirs[0].inputs):
            continue
        values = theirs[0].inputs[theirs[1]]
        if ours[1] == len(ours[0].inputs):
            ours[0].inputs.append(gs.Constant(values.name, values.values))
        ours[0].inputs[ours[1]].values = np.array(values.values)
        biases.add(ours[0].inputs[ours[1]].name)
    return gs.export_onnx(graph), frozenset(biases)
