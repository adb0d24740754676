"""From a plan to integer weights: Q/DQ inserted, weights rounded, biases corrected, everything written as integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxdfq.calibrate.bias_correction import channel_means, correct_biases
from onnxdfq.calibrate.layer_by_layer import round_layer_by_layer
from onnxdfq.emit import finished, with_qdq
from onnxdfq.emit import rounded as as_stored
from onnxdfq.plan_file import check_plan
from onnxdfq.run import Run
from onnxdfq.stages.bits import choose_bits
from onnxdfq.stages.ranges import widths_of_activations
from passes.activation_bits import for_products_alone
from passes.base import PassResult
from passes.compensate import SMOOTH, WHITE, Compensate, decide_compensation
from passes.dfmpc import DFMPC, decide_dfmpc
from passes.fold_batchnorm import ChannelStats
from passes.layer_kernels import kernels_of
from passes.placement import CONVOLUTIONS
from passes.plan import QuantPlan, decide, reach
from passes.propagate_moments import propagate
from passes.round_weights import RoundWeights
from passes.weight_quantizer import weight_quantizer

CORRECTION_IMAGES = 8  # means need fewer images than ranges, and all of these are in memory at once
PIXEL_MEAN, PIXEL_DEVIATION = 118.0, 64.0  # of photographs, about, in 0..255
ROUNDING_IMAGES = 32  # of 224x224; second moments need more


def insert(run: Run, target: str) -> None:
    """Decide the plan, or take the one that is given, and insert its Q and DQ nodes."""
    options, given, placement = run.options, run.options.plan, run.placements[target]
    if given is not None and given.target == target:
        check_plan(given, run.graph)
        run.plans[target] = given
    else:
        run.bits[target] = choose_bits(run, target)
        widths, wants = widths_of_activations(run, placement), options.target(target)
        if options.placement == "target":
            placement = for_products_alone(run.graph, placement, widths, wants)
        run.plans[target] = decide(
            run.graph, run.ranges, wants, run.bits[target].by_weights, placement, widths, options.scales or "min-max"
        )
        notice = options.about_activations(target)
        run.report.notices += [notice] if notice else []
    run.results[target] = with_qdq(run.model, run.plans[target])


def round_weights(run: Run, target: str) -> None:
    """Put the weights on their grids. Whatever is still between two codes after this is rounded to nearest."""
    graph, plan, options = gs.import_onnx(run.results[target]), run.plans[target], run.options
    bits = {name: plan.tensors[node.inputs[1].name].bits for name, node in run.layers(target).items()}
    if options.compensates == "dfmpc":
        words, result = _as_published(run, target, graph, bits)
    elif options.rounds == "gptq":
        words, result = _layer_by_layer(run, graph, bits, plan is options.plan)
    else:
        words, result = options.rounds, RoundWeights(options.rounds, bits)(graph)
        if options.compensates == "dfmpc+":
            words, result = _with_moments(run, graph, bits, words)
    run.rounding[target] = words
    run.report.notices += [f"{skip.node} ({target}): {skip.reason}" for skip in result.skips]
    run.plans[target] = _with_scales(plan, graph)
    run.results[target] = gs.export_onnx(graph)


def _layer_by_layer(run: Run, graph: gs.Graph, bits: dict[str, int], as_planned: bool) -> tuple[str, PassResult]:
    images = run.calibration[: run.affordable(ROUNDING_IMAGES)]
    scales = None if as_planned else run.options.scales or "mse"
    result = round_layer_by_layer(
        graph, gs.import_onnx(run.model), bits, run.batches(images),
        scales=scales, seed=run.options.seed, on_layer=run.progress.step,
    )  # fmt: skip
    return f"gptq: layer by layer, by the second moments of what layers read in {len(images)} images", result


def _as_published(run: Run, target: str, graph: gs.Graph, bits: dict[str, int]) -> tuple[str, PassResult]:
    pairing = run.bits[target].pairing
    decision = decide_dfmpc(run.graph, pairing.pairs if pairing else (), bits, run.gains)
    result = DFMPC(decision)(graph)
    words = f"nearest, {len(decision.coefficients)} pairs compensated as published (DF-MPC)"
    return words, PassResult(result.changed, (*decision.skips, *result.skips))


def _with_moments(run: Run, graph: gs.Graph, bits: dict[str, int], words: str) -> tuple[str, PassResult]:
    """Means and sizes of outputs given back from what the model and its input domain say: no image takes part."""
    rounded = {}
    for node in graph.nodes:
        quantizer = weight_quantizer(node) if node.name in bits else ""
        if not isinstance(quantizer, str):
            rounded[node.name] = kernels_of(node, quantizer.weights.values)
    mean, std = (np.resize(np.asarray(each), run.into.channels) for each in (run.domain.mean, run.domain.std))
    photographs = ChannelStats((PIXEL_MEAN - mean) / std, PIXEL_DEVIATION / std)
    statistics = propagate(run.graph, dict.fromkeys(run.into.images, photographs) | run.statistics)
    rho = dict.fromkeys(rounded, SMOOTH if run.options.rounds == "squant" else WHITE)
    found, skips = decide_compensation(run.graph, rounded, statistics, rho)
    result = Compensate(found)(graph)
    words += f", means and sizes given back to {len(found)} layers"
    return words, PassResult(result.changed, (*skips, *result.skips))


def _with_scales(plan: QuantPlan, graph: gs.Graph) -> QuantPlan:
    """The plan with the scales that the weights have got."""
    found = {}
    for node in graph.nodes:
        if node.op == "QuantizeLinear" and node.inputs[0].name in plan.tensors:
            scale = tuple(map(float, np.atleast_1d(node.inputs[1].values)))
            found[node.inputs[0].name] = replace(plan.tensors[node.inputs[0].name], scale=scale)
    return replace(plan, tensors={**plan.tensors, **found})


def correct_biases_of(run: Run, target: str) -> None:
    """The same model with the means of all layers put right once more, on whole images; verify says if it is better."""
    if not run.options.bias_correction:
        return
    layers = run.layers(target)
    names = set(layers)
    axes = {name: 1 if node.op in CONVOLUTIONS else -1 for name, node in layers.items()}
    batches = run.batches(run.calibration[: run.affordable(CORRECTION_IMAGES)])
    missing = {layers[name].outputs[0].name: axes[name] for name in sorted(names - run.expected.keys())}
    means = channel_means(run.model, missing, batches) if missing else {}
    run.expected.update({name: means[layers[name].outputs[0].name] for name in names - run.expected.keys()})
    graph = gs.import_onnx(run.results[target])
    result = correct_biases(graph, sorted(names), run.expected, axes, batches, run.progress.step)
    run.report.notices += [f"{skip.node} not corrected for {target}: {skip.reason}" for skip in result.skips]
    run.corrected[target] = gs.export_onnx(graph)


def freeze(run: Run, target: str) -> None:
    """Weights in integers, and whatever else a finished file wants."""
    ranges = run.ranges
    if target in run.learning:  # which moves them
        planned = run.plans[target].tensors
        ranges = as_stored(ranges | {name: reach(planned[name]) for name in planned.keys() & ranges.keys()})
    for candidates in (run.results, run.corrected):
        if target in candidates:
            candidates[target], skips = finished(
                candidates[target], run.plans[target], run.original, ranges, run.options
            )
            notices = [f"{skip.node} ({target}): {skip.reason}" for skip in skips]
            run.report.notices += [notice for notice in notices if notice not in run.report.notices]
