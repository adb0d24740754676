"""How many bits the weights of each layer get: alike, in pairs, or as a budget and the layers' sensitivities say."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxdfq.bits import Bits
from onnxdfq.calibrate.sensitivity import sensitivities
from onnxdfq.errors import OnnxdfqError
from onnxdfq.run import Run
from passes.allocate_bits import bits_within_average, bits_within_size, paired_bits, possible_bits, uniform_bits
from passes.grid import nearest
from passes.layer_kernels import as_stored, kernels_of
from passes.weight_scales import find_grid

PROBED_IMAGES = 4  # of 224x224


def choose_bits(run: Run, target: str) -> Bits:
    """The bits for one target, as the options say. Raises OnnxdfqError for a budget that cannot be met."""
    options, graph, placement = run.options, run.graph, run.placements[target]
    if options.size_budget is not None or options.avg_bits is not None:
        return _within_budget(run, target)
    all_layers, chosen = options.every_layer, run.overrides.bits
    if isinstance(options.bits, int):
        return Bits(uniform_bits(graph, placement, options.bits, all_layers=all_layers, chosen=chosen))
    return Bits(*paired_bits(graph, placement, *options.bits, all_layers=all_layers, chosen=chosen))


def _within_budget(run: Run, target: str) -> Bits:
    options, placement, wants = run.options, run.placements[target], run.options.target(target)
    tensors = run.graph.tensors()
    elements = {site.layer: tensors[name].values.size for name, site in placement.weights.items()}
    possible = possible_bits(run.graph, placement, wants, all_layers=options.all_layers, chosen=run.overrides.bits)
    free = tuple(layer for layer, widths in possible.items() if len(widths) > 1)
    found = damages(run, free, sorted({bits for layer in free for bits in possible[layer]}))
    try:
        if options.size_budget is not None:
            containers = [] if options.compat else [bits for bits, _ in wants.packed_from]
            by_layer = bits_within_size(elements, possible, found, options.size_budget, containers)
        else:
            by_layer = bits_within_average(elements, possible, found, options.avg_bits or 8)
    except ValueError as error:
        raise OnnxdfqError(f"{target}: {error}", "give more, or choose another target") from None
    by_weights = {name: by_layer[site.layer] for name, site in placement.weights.items()}
    return Bits(by_weights, None, found, free)


def damages(run: Run, layers: tuple[str, ...], widths: list[int]) -> dict[str, dict[int, float]]:
    """What so many bits for the weights of one layer alone do to the answers, by layer and bits."""
    nodes = {node.name: node for node in run.graph.nodes if node.name in layers}
    batches = run.batches(run.calibration[: run.whole(run.affordable(8 * PROBED_IMAGES) // 8)])
    return sensitivities(run.model, layers, batches, widths, partial(_rounded, nodes), run.progress.step)


def _rounded(nodes: dict[str, gs.Node], layer: str, bits: int) -> np.ndarray:
    """The weights of a layer as the simplest rounding leaves them, which is enough to rank layers."""
    kernels = kernels_of(nodes[layer])
    grid = find_grid(kernels, bits)
    codes = nearest(kernels, grid)
    return as_stored(nodes[layer], grid.reals(codes).astype(np.float32), nodes[layer].inputs[1].values.shape)
