"""A plan as a file: written, edited by a person, and applied again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from onnxdfq.errors import OnnxdfqError
from onnxdfq.model_file import write_bytes
from passes.plan import INTEGER_LIMITS, QuantParams, QuantPlan
from passes.targets import TARGETS, Target

SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def plan_files(model: Path, targets: Sequence[str], output: Path) -> dict[str, Path]:
    """Where the plan of each target goes: ``output`` is a file for one target, a folder for several."""
    if len(targets) == 1 and not output.is_dir():
        return dict.fromkeys(targets, output)
    return {target: output / f"{model.stem}.{target}.plan.json" for target in targets}


def write_plan(plan: QuantPlan, path: Path) -> None:
    """Write a plan whole or not at all. Raises OnnxdfqError when the file system refuses."""
    write_bytes(json.dumps(plan.to_json(), indent=1).encode(), path)


def read_plan(path: Path) -> QuantPlan:
    """The plan in a file. Raises OnnxdfqError for what is no plan, or not a possible one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OnnxdfqError(f"{path} can't be read: {error.strerror}", "give a file that --plan-out wrote") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OnnxdfqError(f"{path} is not JSON: {error}", "give a file that --plan-out wrote") from error
    try:
        plan = QuantPlan.from_json(data)
        target = TARGETS.get(plan.target)
        reasons = {name: _objection(params, target) for name, params in plan.tensors.items() if target}
    except KeyError as error:
        raise OnnxdfqError(f"{path} is no plan: {error} is missing", "give a file that --plan-out wrote") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise OnnxdfqError(f"{path} is no plan: {error}", "give a file that --plan-out wrote") from error
    if target is None:
        raise OnnxdfqError(f"{path} is for a target {plan.target}", f"known are {', '.join(TARGETS)}")
    for name, reason in reasons.items():
        if reason:
            raise OnnxdfqError(f"{path}: tensor {name}: {reason}", "correct it")
    return plan


def check_plan(plan: QuantPlan, graph: gs.Graph) -> None:
    """Raise OnnxdfqError unless every tensor and reader of the plan is in the graph, with channels that fit."""
    tensors, nodes = graph.tensors(), {node.name for node in graph.nodes}
    hint = "the plan was made for another model; make it again with --plan-out"
    for name, params in plan.tensors.items():
        if name not in tensors:
            raise OnnxdfqError(f"the plan quantizes {name}, which the model does not have", hint)
        shape = tensors[name].shape
        if params.axis is not None and (
            shape is None or params.axis >= len(shape) or shape[params.axis] != len(params.scale)
        ):
            raise OnnxdfqError(f"the plan has {len(params.scale)} scales for {name} of shape {shape}", hint)
    for name, readers in plan.readers.items():
        unknown = set(readers) - nodes
        if unknown:
            raise OnnxdfqError(f"the plan lets {min(unknown)} read {name}, which the model does not have", hint)


def _objection(params: QuantParams, target: Target) -> str:
    """What makes the parameters impossible; empty when nothing does."""
    if params.dtype not in INTEGER_LIMITS:
        return f"dtype {params.dtype} is not one of {', '.join(INTEGER_LIMITS)}"
    if params.dtype not in target.reader.code_types:
        return f"{target.name} does not read {params.dtype}"
    if params.axis is not None and not (isinstance(params.axis, int) and params.axis >= 0):
        return f"axis {params.axis} is not a whole number from 0 up"
    low, high = INTEGER_LIMITS[params.dtype]
    if len(params.scale) != len(params.zero_point) or not params.scale:
        return f"{len(params.scale)} scales with {len(params.zero_point)} zero-points"
    if params.axis is None and len(params.scale) != 1:
        return f"{len(params.scale)} scales and no axis"
    if not all(SMALLEST <= scale <= LARGEST for scale in params.scale):
        return "a scale is not a positive number of float32"
    if not all(isinstance(zero, int) and low <= zero <= high for zero in params.zero_point):
        return f"a zero-point is not a whole number from {low} to {high}"
    if target.symmetric and any(params.zero_point):
        return f"{target.name} takes no zero-point but 0"
    if params.codes is not None:
        least, most = params.codes
        if not (isinstance(least, int) and isinstance(most, int) and low <= least < most <= high):
            return f"codes are not two whole numbers from {low} to {high}, the lower one first"
        if params.axis is not None or not least <= params.zero_point[0] <= most:
            return f"codes from {least} to {most} want one zero-point among them"
    return ""
