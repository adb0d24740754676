"""Sequential bias correction: layer by layer, each measured on the network as corrected so far.

The quantized graph is cut behind every layer. The pieces run one after the other on all images, what later pieces need
is carried along, and a layer's output is put right before anything reads it. So the whole correction costs one pass
through the network, and memory for the tensors that are alive at one cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from onnxdfq.calibrate.pieces import Batch, behind_layers
from onnxdfq.engine.ort import Session, tapped
from passes.base import PassResult, Skip
from passes.canonicalize import default_opset
from passes.correct_bias import bias_of, shift_bias

RULE = "bias-correction"


def channel_means(
    model: onnx.ModelProto, channels: Mapping[str, int], batches: Sequence[Batch]
) -> dict[str, np.ndarray]:
    """Mean of each channel, [C] float64, of the tensors named. channels: tensor -> axis of its channels."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    ranks = _ranks(model)
    taps = {}
    for name, axis in channels.items():
        rank = ranks.get(name, 0)
        axes = [k for k in range(rank) if k not in (0, axis % rank)]
        taps[name] = f"{name}_channel_mean" if axes else name
        if axes:  # the mean over positions comes from the runtime, so that only [N, C] has to leave it
            _append_mean(copy, name, axes, taps[name])
    session = Session(tapped(copy, taps.values()))
    sums = dict.fromkeys(channels, np.float64(0))
    rows = dict.fromkeys(channels, 0)  # not the images: a Gemm may see every token as a row
    for outputs in session.stream(batches):
        for name, tap in taps.items():
            channels_last = outputs[tap] if tap != name else np.moveaxis(outputs[tap], channels[name], -1)
            flat = channels_last.reshape(-1, channels_last.shape[-1])
            sums[name] = sums[name] + flat.sum(0, dtype=np.float64)
            rows[name] += len(flat)
    return {name: np.asarray(total / rows[name]) for name, total in sums.items()}


def correct_biases(
    graph: gs.Graph,
    layers: Sequence[str],
    expected: Mapping[str, np.ndarray],
    axes: Mapping[str, int],
    batches: Sequence[Batch],
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> PassResult:
    """Correct the biases of ``layers`` (names of nodes) of a quantized graph in place.

    expected: mean [C] that the output of a layer has in the float model on the same images, by layer. axes: axis of
    its channels. batches: the images; what is alive at a cut is held for all of them.
    """
    graph.toposort()
    wanted = [node for node in graph.nodes if node.name in set(layers)]
    correctable = [node for node in wanted if bias_of(node) is not None]
    skips = [Skip(node.name, RULE, "it has no place for a bias") for node in wanted if bias_of(node) is None]
    alive: list[dict[str, np.ndarray]] = [dict(batch) for batch in batches]
    pieces = behind_layers(graph, correctable)
    last_use = {name: index for index, piece in enumerate(pieces) for name in piece.needs}
    for index, (piece, layer) in enumerate(zip(pieces, correctable, strict=True)):
        written = layer.outputs[0].name
        produced = sorted(name for name in piece.makes if last_use.get(name, -1) > index or name == written)
        session = Session(piece.model(graph, produced), as_written=True)
        for held in alive:
            held.update(session.run({name: held[name] for name in session.inputs}))
        axis = axes[layer.name]
        mean = _mean([held[written] for held in alive], axis)
        shift = expected[layer.name] - mean
        shift_bias(layer, shift)
        for held in alive:
            if layer.op != "MatMul":  # whose bias is a node of its own, which will add it
                held[written] = _added(held[written], shift, axis)
            for name in [each for each in held if last_use.get(each, -1) <= index]:
                del held[name]
        on_layer(index + 1, len(pieces))
    return PassResult(len(correctable), tuple(skips))


def _added(values: np.ndarray, shift: np.ndarray, axis: int) -> np.ndarray:
    shape = [1] * values.ndim
    shape[axis % values.ndim] = -1
    return values + shift.astype(np.float32).reshape(shape)


def _mean(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    total = sum(np.moveaxis(part, axis, -1).reshape(-1, part.shape[axis]).sum(0, dtype=np.float64) for part in parts)
    return np.asarray(total) / sum(part.size // part.shape[axis] for part in parts)


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    known = [*model.graph.value_info, *model.graph.output, *model.graph.input]
    return {entry.name: len(entry.type.tensor_type.shape.dim) for entry in known}


def _append_mean(model: onnx.ModelProto, name: str, axes: Sequence[int], output: str) -> None:
    if default_opset(model) < 18:
        model.graph.node.append(helper.make_node("ReduceMean", [name], [output], axes=list(axes), keepdims=0))
        return
    positions = helper.make_tensor(f"{output}_axes", TensorProto.INT64, [len(axes)], list(axes))
    model.graph.initializer.append(positions)
    model.graph.node.append(helper.make_node("ReduceMean", [name, positions.name], [output], keepdims=0))
