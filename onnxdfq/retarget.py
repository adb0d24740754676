"""The same model for another runtime, from ranges that were measured before: no images, no calibration.

quantized model, its ranges in the metadata   ->  float graph (passes/remove_qdq.py)   ->  plan, Q/DQ, integers
float model, ranges in a report               ->  simplified, canonical, folded        ->  plan, Q/DQ, integers
"""

from __future__ import annotations

import json
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
from passes.activation_bits import activation_bits
from passes.allocate_bits import uniform_bits
from passes.base import run_passes
from passes.canonicalize import CANONICAL, ConstantsToInitializers
from passes.placement import place
from passes.plan import QuantPlan, decide
from passes.remove_qdq import RemoveQDQ, constant_codes


def retarget(path: Path, options: Options, ranges: Path | None = None) -> tuple[onnx.ModelProto, QuantPlan]:
    """The model for ``options.targets[0]``, and the plan that made it.

    path: a model that this tool quantized, whose weights keep their bits; or a float one, with ``ranges``, the report
    of a run that quantized it, and ``options.bits``. Activations have the bits that their ranges were measured for.
    Raises OnnxdfqError when there are no ranges, or not those needed.
    """
    original = read_model(path, quantized=True)
    width = options.bits
    if isinstance(width, tuple):
        raise OnnxdfqError("layers are paired when a model is quantized", "retarget the quantized one")
    if is_quantized(original):
        known = stored_ranges(original, path) if ranges is None else _reported(ranges)
        if not known:
            hint = "give the float model and --ranges REPORT.json"
            raise OnnxdfqError(f"{path} holds no ranges: another tool made it", hint)
        if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in original.graph.initializer):
            raise OnnxdfqError(f"{path} is in float16", "give the one in float32, or the float model and --ranges")
        graph, bits = dequantized_graph(original, path)
    else:
        if ranges is None:
            raise OnnxdfqError(f"{path} is a float model", "give --ranges REPORT.json of a run that quantized it")
        known = _reported(ranges)
        graph, bits = float_graph(original, options, Report(str(path), 0, {}), Progress()), {}
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
    chosen = bits or uniform_bits(graph, placement, width, all_layers=options.all_layers)
    act_bits = activation_bits(graph, placement, options.act_bits or 8, all_layers=options.all_layers)
    plan = decide(graph, known, target, chosen, placement, act_bits)
    model = with_shapes(gs.export_onnx(graph))
    result, _ = finished(with_qdq(model, plan), plan, original, known, options)
    onnx.checker.check_model(result)
    Session(result)
    return result, plan


def dequantized_graph(model: onnx.ModelProto, path: Path) -> tuple[gs.Graph, dict[str, int]]:
    """The float graph behind Q/DQ nodes, and the bits of its weights by name."""
    graph = gs.import_onnx(model)
    run_passes(graph, [ConstantsToInitializers()])
    used = {}
    for node in graph.nodes:
        codes = constant_codes(node.inputs[0]) if node.op == "DequantizeLinear" else None
        if codes is not None and codes.ndim > 1:
            used[id(node.outputs[0])] = (node.outputs[0], _bits(codes))
    (result,) = run_passes(graph, [RemoveQDQ()])
    if result.skips or is_quantized(gs.export_onnx(graph)):
        raise OnnxdfqError(f"{path} computes in integers otherwise than by Q/DQ pairs", "give the float model")
    run_passes(graph, CANONICAL)
    return graph, {tensor.name: bits for tensor, bits in used.values()}


def _bits(codes: np.ndarray) -> int:
    """The fewest bits whose symmetric grid holds these codes."""
    largest = int(np.abs(codes.astype(np.int16)).max(initial=1))
    return min(max(largest.bit_length() + 1, 2), 8)


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


def _reported(path: Path) -> Bounds:
    try:
        return _pairs(json.loads(path.read_text(encoding="utf-8"))["ranges"])
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
