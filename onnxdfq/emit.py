"""From a float graph and a plan to the model that a runtime reads: what all verbs that write a model share."""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnxdfq.config import ACTIVATIONS_KEY, Options
from onnxdfq.errors import OnnxdfqError
from passes.base import Pass, Skip, run_passes
from passes.errors import PassError
from passes.float16 import Float16
from passes.freeze_weights import FreezeBiases, FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.pack_weights import PackWeights
from passes.plan import QuantPlan
from passes.precise_biases import PreciseBiases
from passes.targets import TARGETS

RANGES_KEY = "onnxdfq.ranges"  # in the model's metadata: what another target can be made from
Bounds = Mapping[str, tuple[float, float]]


def with_qdq(model: onnx.ModelProto, plan: QuantPlan) -> onnx.ModelProto:
    """The float model with the plan's Q and DQ nodes; weights are still float."""
    graph = gs.import_onnx(model)
    try:
        run_passes(graph, [InsertQDQ(plan)])
    except PassError as error:
        if isinstance(error.__cause__, ValueError):  # its operators do not exist in the opset that the codes need
            raise OnnxdfqError(
                f"no codes of the plan's types in this model: {error.__cause__}", "--act-bits 8"
            ) from error
        raise
    return gs.export_onnx(graph)


def finished(
    model: onnx.ModelProto, plan: QuantPlan, original: onnx.ModelProto, ranges: Bounds, options: Options
) -> tuple[onnx.ModelProto, list[Skip]]:
    """Weights in integers, the interface and the metadata of the original, and the ranges for later; with what could
    not be done as asked for."""
    graph = gs.import_onnx(model)
    target = TARGETS[plan.target]
    steps: list[Pass] = [FreezeBiases(target.int32_bias_written), FreezeWeights()]
    precise = target.int32_bias and options.float_type == "float32"
    steps += [PreciseBiases(target.reader.climbs)] if precise else []
    steps += [Float16()] if options.float_type == "float16" else []
    steps += [PackWeights(target.packed_from, target.newest_opset)] if target.packed_from and not options.compat else []
    skips = [skip for result in run_passes(graph, steps) for skip in result.skips]
    model = gs.export_onnx(graph)
    model.producer_name = "onnxdfq"
    model.graph.name = original.graph.name
    kept = {entry.key: entry.value for entry in original.metadata_props}
    added = {RANGES_KEY: json.dumps(ranges, separators=(",", ":"))}
    if options.act_bits != 8:
        added[ACTIVATIONS_KEY] = json.dumps({"act_bits": options.act_bits, "all_layers": options.all_layers})
    helper.set_model_props(model, kept | added)
    restore_interface(model, original)
    return model, skips


def rounded(ranges: Bounds) -> dict[str, tuple[float, float]]:
    """Ranges as they are stored: six digits, which is finer than any 8-bit grid."""
    return {name: (float(f"{low:.6g}"), float(f"{high:.6g}")) for name, (low, high) in sorted(ranges.items())}


def restore_interface(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Inputs and outputs as they were, down to the names of free dimensions."""
    initializers = {tensor.name for tensor in original.graph.initializer}
    for ours, theirs in ((model.graph.input, original.graph.input), (model.graph.output, original.graph.output)):
        kept = [entry for entry in theirs if entry.name not in initializers]
        del ours[:]
        ours.extend(kept)
