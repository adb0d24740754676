"""The same model for another runtime, from ranges that were measured before: no images, no calibration.

quantized model, its ranges in the metadata   ->  float graph (passes/remove_qdq.py)   ->  plan, Q/DQ, integers
float model, ranges in a report               ->  simplified, canonical, folded        ->  plan, Q/DQ, integers
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxdfq.config import ACTIVATIONS_KEY, Options
from onnxdfq.console import Progress
from onnxdfq.emit import RANGES_KEY, Bounds, finished, with_qdq
from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.model_file import is_quantized, read_model, with_shapes
from onnxdfq.report.report import Report
from onnxdfq.stages.prepare import float_graph
from passes.activation_bits import activation_bits, for_products_alone
from passes.allocate_bits import uniform_bits
from passes.base import run_passes
from passes.canonicalize import CANONICAL, ConstantsToInitializers
from passes.pack_weights import bits_of
from passes.placement import Placement, place
from passes.plan import QuantParams, QuantPlan, bias_floor, decide
from passes.remove_qdq import RemoveQDQ, constant_codes


def retarget(path: Path, options: Options, ranges: Path | None = None) -> tuple[onnx.ModelProto, QuantPlan]:
    """The model for ``options.targets[0]``, and the plan that made it.

    path: a model that this tool quantized, whose weights keep their bits and, where the target can have them, their
    scales; or a float one, with ``ranges``, the report of a run that quantized it, and ``options.bits``. Activations
    have the bits that their ranges were measured for.
    Raises OnnxdfqError when there are no ranges, or not those needed.
    """
    original = read_model(path, quantized=True)
    width = options.bits
    if isinstance(width, tuple):
        raise OnnxdfqError("layers are paired when a model is quantized", "retarget the quantized one")
    if is_quantized(original):
        known = stored_ranges(original, path) if ranges is None else _reported(ranges)[0]
        if not known:
            hint = "give the float model and --ranges REPORT.json"
            raise OnnxdfqError(f"{path} holds no ranges: another tool made it", hint)
        if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in original.graph.initializer):
            raise OnnxdfqError(f"{path} is in float16", "give the one in float32, or the float model and --ranges")
        graph, stored = dequantized_graph(original, path)
    else:
        if ranges is None:
            raise OnnxdfqError(f"{path} is a float model", "give --ranges REPORT.json of a run that quantized it")
        known, equalized = _reported(ranges)
        if equalized:
            raise OnnxdfqError(
                f"{ranges} does not fit {path}: its layers were equalized", "give the quantized model instead"
            )
        graph, stored = float_graph(original, options, Report(str(path), 0, {}), Progress()), {}
    options = replace(options, **_activations(original, path, ranges))
    target = options.target(options.targets[0])
    placement = place(graph, target, known)
    missing = [
        name for name in placement.tensors if name not in known and isinstance(graph.tensors()[name], gs.Variable)
    ]
    if missing:
        raise OnnxdfqError(f"no range is known of {missing[0]}", f"quantize the float model for {target.name} instead")
    if not placement.weights:
        raise OnnxdfqError(f"the model has no layer that can be quantized for {target.name}", "see `onnxdfq explain`")
    bits = {name: params.bits for name, params in stored.items()}
    chosen = bits or uniform_bits(graph, placement, width, all_layers=options.all_layers)
    act_bits = activation_bits(graph, placement, options.act_bits or 8, all_layers=options.all_layers)
    placement = for_products_alone(graph, placement, act_bits, target)
    plan = _with_scales(decide(graph, known, target, chosen, placement, act_bits), stored, graph, placement)
    model = with_shapes(gs.export_onnx(graph))
    result, _ = finished(with_qdq(model, plan), plan, original, known, options)
    onnx.checker.check_model(result)
    Session(result)
    return result, plan


def _with_scales(
    plan: QuantPlan, stored: Mapping[str, QuantParams], graph: gs.Graph, placement: Placement
) -> QuantPlan:
    """The plan with the scales that weights had in the file, where they serve: on others they would be rounded twice.

    A scale for each channel does not serve a target that has one for all, nor one that has fewer bits. Scales are
    raised where the bias would not fit into int32; a source that computes in float does not care.
    """
    layers, tensors = {node.name: node for node in graph.nodes}, dict(plan.tensors)
    for name in placement.weights.keys() & stored.keys():
        planned, held = tensors[name], stored[name]
        alike = (held.axis, held.zero_point) == (planned.axis, planned.zero_point)  # and so as many scales
        if not alike or held.bits > planned.bits:
            continue
        layer = layers[placement.weights[name].layer]
        source = tensors.get(layer.inputs[0].name)
        floor = bias_floor(layer, source.scale[0]) if source else np.zeros((), np.float32)
        scale = np.maximum(np.array(held.scale, np.float32), floor.max() if planned.axis is None else floor)
        tensors[name] = replace(planned, scale=tuple(map(float, scale)))
    return replace(plan, tensors=tensors)


def dequantized_graph(model: onnx.ModelProto, path: Path) -> tuple[gs.Graph, dict[str, QuantParams]]:
    """The float graph behind Q/DQ nodes, and how the file has its weights, by name."""
    graph = gs.import_onnx(model)
    run_passes(graph, [ConstantsToInitializers()])
    used = {}
    for node in graph.nodes:
        codes = constant_codes(node.inputs[0]) if node.op == "DequantizeLinear" else None
        if codes is not None and codes.ndim > 1 and codes.size:
            used[id(node.outputs[0])] = (node.outputs[0], _stored(node, codes))
    (result,) = run_passes(graph, [RemoveQDQ()])
    if result.skips or is_quantized(gs.export_onnx(graph)):
        raise OnnxdfqError(f"{path} computes in integers otherwise than by Q/DQ pairs", "give the float model")
    run_passes(graph, CANONICAL)
    return graph, {tensor.name: params for tensor, params in used.values()}


def _stored(node: gs.Node, codes: np.ndarray) -> QuantParams:
    """How a DequantizeLinear reads constant codes, and the fewest bits that hold them."""
    scale = np.asarray(node.inputs[1].values, np.float32)
    zero = node.inputs[2].values if len(node.inputs) > 2 else np.zeros(scale.shape)
    axis = node.attrs.get("axis", 1) % codes.ndim if scale.ndim else None
    numbers = tuple(map(float, scale.ravel())), tuple(map(int, np.ravel(zero)))
    return QuantParams(codes.dtype.name, bits_of(codes.astype(np.int16)), *numbers, axis, f"read by {node.name}")


def stored_ranges(model: onnx.ModelProto, path: Path) -> Bounds:
    """The ranges in the metadata of a model; none where another tool made it. Raises OnnxdfqError for damaged ones."""
    text = next((entry.value for entry in model.metadata_props if entry.key == RANGES_KEY), "{}")
    try:
        return _pairs(json.loads(text))
    except ValueError as error:
        raise OnnxdfqError(f"the ranges in {path} are damaged", "quantize the float model again") from error


def _activations(model: onnx.ModelProto, path: Path, report: Path | None) -> dict[str, Any]:
    """Options of the run that measured the ranges, as far as they are about activations; none where they had 8 bits."""
    text = next((entry.value for entry in model.metadata_props if entry.key == ACTIVATIONS_KEY), "{}")
    try:
        said = json.loads(text) if report is None else json.loads(report.read_text(encoding="utf-8")).get("options", {})
        return {key: said[key] for key in ("act_bits", "all_layers")} if said.get("act_bits", 8) != 8 else {}
    except (ValueError, KeyError, AttributeError) as error:
        raise OnnxdfqError(f"{report or path} says nothing sound of activations", "quantize again") from error


def _reported(path: Path) -> tuple[Bounds, str]:
    """The ranges in a report, and what it says of layers that were equalized; nothing where none were."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return _pairs(report["ranges"]), report.get("equalization", "")
    except OSError as error:
        raise OnnxdfqError(f"{path} can't be read: {error.strerror}", "give what --report wrote") from error
    except (ValueError, KeyError, TypeError) as error:
        raise OnnxdfqError(f"{path} holds no ranges", "give what --report wrote") from error


def _pairs(data: Any) -> Bounds:
    """Ranges as JSON has them. Raises ValueError for what is none."""
    try:
        pairs = {str(name): (float(low), float(high)) for name, (low, high) in data.items()}
    except (TypeError, AttributeError) as error:
        raise ValueError("not pairs of numbers") from error
    if not np.isfinite(list(pairs.values())).all():
        raise ValueError("not finite")
    return pairs
