"""Round the weights of a quantized graph layer by layer, each for what it reads in the graph as rounded so far.

With x what a layer reads in the float model, ^x what it reads in the quantized one, and W its float weights, the
rounded weights Q are to give Q ^x = W x. Over synthetic images, with means taken out (the bias takes care of them),

    T = the best weights for ^x that are not rounded          passes/refit.py
    Q = T rounded, with H = Cov(^x)                           passes/second_order.py
    b' = b + W E[x] - Q E[^x]

The second is GPTQ; with the first before it, it is close to GPTAQ (Li et al. 2025).

The float and the quantized model run side by side, in pieces that end before each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxdfq.calibrate.pieces import Batch, inputs_of_layers
from passes.base import PassResult, Skip
from passes.correct_bias import bias_of, shift_bias
from passes.grid import Grid
from passes.layer_kernels import as_stored, kernels_of
from passes.patches import LAYERS, patches
from passes.plan import bias_floor
from passes.refit import refit
from passes.second_order import second_order
from passes.weight_quantizer import WeightQuantizer, weight_quantizer
from passes.weight_scales import SMALLEST_SCALE, Scales, code_limits, find_grid

RULE = "layer-by-layer"
ROWS_PER_COLUMN, FEWEST_ROWS, MOST_ROWS = 8, 2048, 4096
LARGEST = 576  # numbers in a patch; larger ones are taken in parts, as if the parts had nothing to do with each other
MEAN_SHARE = 0.1  # how much of the mean H has: the bias was corrected for these images, and others differ


def round_layer_by_layer(
    graph: gs.Graph,
    reference: gs.Graph,
    bits: Mapping[str, int],
    batches: Sequence[Batch],
    *,
    scales: Scales | None = "mse",
    seed: int = 0,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> PassResult:
    """Replace, in place, the float weights behind the quantizers of ``graph`` by numbers on their grids.

    reference: the same graph in float, without Q and DQ. bits: of the weights, by layer (name of a node). batches: what
    both are fed with. scales: how scales are searched; None leaves those that are there.
    """
    result, skips = 0, []
    graph.toposort()
    layers = [node.name for node in graph.nodes if node.name in bits]  # Q and DQ may have changed the order of branches
    floats = inputs_of_layers(reference, layers, batches)
    quantized = inputs_of_layers(graph, layers, batches)
    for done, ((original, x), (layer, x_quantized)) in enumerate(zip(floats, quantized, strict=True), 1):
        reason = _round(original, layer, x, x_quantized, bits[layer.name], scales, seed)
        if reason:
            skips.append(Skip(layer.name, RULE, reason))
        result += not reason
        on_layer(done, len(layers))
    return PassResult(result, tuple(skips))


def _round(
    original: gs.Node,
    layer: gs.Node,
    x: Sequence[np.ndarray],
    x_quantized: Sequence[np.ndarray],
    bits: int,
    scales: Scales | None,
    seed: int,
) -> str:
    """Round one layer; why not, where it can't be."""
    place = weight_quantizer(layer)
    if isinstance(place, str):
        return place
    if layer.op not in LAYERS:
        return f"{layer.op} is rounded to nearest"
    kernels = kernels_of(original)
    rows = (
        np.concatenate(_rows(original, x, kernels[0].size, seed)),
        np.concatenate(_rows(layer, x_quantized, kernels[0].size, seed)),
    )
    groups, size = rows[0].shape[1:]
    flat = kernels.reshape(groups, -1, size).astype(np.float32)
    parts = [slice(first, first + LARGEST) for first in range(0, size, LARGEST)]
    means = [each.mean(0) for each in rows]  # [G, D]
    middle = len(rows[0]) // 2 or None  # a single row is both halves
    wanted, importance, moments = flat.copy(), np.empty_like(flat), []
    for part in parts:
        halves = [
            _seen(*(each[half, :, part].transpose(1, 0, 2) for each in rows))
            for half in (slice(None, middle), slice(middle, None))  # of other images each
        ]
        wanted[:, :, part] = refit(flat[:, :, part], halves)
        mean = means[1][:, None, part]
        moments.append((halves[0][0] + halves[1][0]) / 2 + MEAN_SHARE * mean.transpose(0, 2, 1) @ mean)
        importance[:, :, part] = np.diagonal(moments[-1], axis1=1, axis2=2)[:, None]
    del rows
    grid = _grid(layer, place, wanted.reshape(kernels.shape), importance.reshape(kernels.shape), bits, scales)
    codes = np.concatenate(
        [second_order(wanted[:, :, part], grid, each) for part, each in zip(parts, moments, strict=True)], 2
    )
    rounded = grid.reals(codes.reshape(kernels.shape))
    place.set(as_stored(layer, rounded, place.weights.values.shape), grid.scale)
    if bias_of(layer) is not None:
        after = rounded.reshape(groups, -1, size)
        shift = np.einsum("gd,grd->gr", means[0], flat) - np.einsum("gd,grd->gr", means[1], after)
        shift_bias(layer, shift.reshape(-1) * layer.attrs.get("alpha", 1.0))
    return ""


def _rows(layer: gs.Node, x: Sequence[np.ndarray], size: int, seed: int) -> list[np.ndarray]:
    """What ``layer`` reads, [count, G, D] for each batch, at the same positions whatever the values are."""
    rng = np.random.default_rng(seed)
    wanted = int(np.clip(ROWS_PER_COLUMN * size, FEWEST_ROWS, MOST_ROWS))
    return [patches(layer, values, -(-wanted // len(x)), rng) for values in x]


def _seen(rows: np.ndarray, rows_quantized: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H and C - H, [G, D, D], of rows [G, count, D] of the two models."""
    centred = rows_quantized - rows_quantized.mean(1, keepdims=True)
    missing = rows - rows.mean(1, keepdims=True) - centred
    moments = centred.transpose(0, 2, 1) @ centred / rows.shape[1]
    return moments, missing.transpose(0, 2, 1) @ centred / rows.shape[1]


def _grid(
    layer: gs.Node,
    place: WeightQuantizer,
    kernels: np.ndarray,
    importance: np.ndarray,
    bits: int,
    scales: Scales | None,
) -> Grid:
    if scales is None:
        return Grid(place.scale.values.astype(np.float64), np.zeros(len(kernels)), *code_limits(bits))
    source = layer.inputs[0].inputs
    floor: np.ndarray | float = SMALLEST_SCALE
    if source and source[0].op == "DequantizeLinear":
        floor = np.maximum(floor, bias_floor(layer, float(source[0].inputs[1].values)))
    return find_grid(kernels, bits, scales, importance=importance, floor=floor)
