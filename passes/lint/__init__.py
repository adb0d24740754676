"""Lint a quantized model, whoever made it, against what a target wants: rules in a table, findings as data.

Each rule is a pure function of one graph and the target's description, and its docstring is its documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import onnx

from passes.lint.axes import activation_per_channel, axis_missing, axis_scalar, axis_wrong, convtranspose_per_channel
from passes.lint.codes import (
    bias_int32,
    code_type,
    float_type,
    pair_mismatch,
    scale_computed,
    scale_positive,
    zero_point,
    zero_point_missing,
)
from passes.lint.kernels import few_bits, float_between, fusion_broken
from passes.lint.layers import (
    bias_float,
    bias_scale,
    int4_blocked_conv,
    int4_odd,
    int4_unfused,
    int8_blocked,
    packed_cast,
    weight_bits,
    weights_rounded,
)
from passes.lint.placing import (
    activation_type,
    add_both_quantized,
    concat_scales,
    partly_quantized,
    qdq_before_activation,
    scale_changes,
    weights_only,
)
from passes.lint.view import Finding, Severity, View
from passes.lint.whole_file import custom_op, integer_op, not_quantized, opset, opset_feature
from passes.targets import Target

__all__ = ["RULES", "SEVERITIES", "Finding", "Severity", "lint"]

Rule = Callable[[View, Target], Iterator[Finding]]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

RULES: Mapping[str, Rule] = MappingProxyType({
    "not-quantized": not_quantized,
    "opset": opset,
    "opset-feature": opset_feature,
    "custom-op": custom_op,
    "integer-op": integer_op,
    "bias-int32": bias_int32,
    "code-type": code_type,
    "zero-point": zero_point,
    "zero-point-missing": zero_point_missing,
    "scale-positive": scale_positive,
    "scale-computed": scale_computed,
    "pair-mismatch": pair_mismatch,
    "float-type": float_type,
    "axis-missing": axis_missing,
    "axis-scalar": axis_scalar,
    "axis-wrong": axis_wrong,
    "activation-per-channel": activation_per_channel,
    "convtranspose-per-channel": convtranspose_per_channel,
    "int4-blocked-conv": int4_blocked_conv,
    "int8-blocked": int8_blocked,
    "int4-unfused": int4_unfused,
    "int4-odd": int4_odd,
    "packed-cast": packed_cast,
    "weight-bits": weight_bits,
    "bias-float": bias_float,
    "bias-scale": bias_scale,
    "weights-rounded": weights_rounded,
    "qdq-before-activation": qdq_before_activation,
    "add-both-quantized": add_both_quantized,
    "concat-scales": concat_scales,
    "scale-changes": scale_changes,
    "activation-type": activation_type,
    "weights-only": weights_only,
    "partly-quantized": partly_quantized,
    "fusion-broken": fusion_broken,
    "float-between": float_between,
    "few-bits": few_bits,
})  # fmt: skip


def lint(model: onnx.ModelProto, target: Target, folder: Path | None = None) -> list[Finding]:
    """Everything that the rules find in a model and in the bodies of its nodes, errors first.

    folder: where the model's external data is. Weights need not be loaded from there; scales are read when needed.
    """
    views = list(View(model, folder).walk())
    found = [finding for rule in RULES.values() for view in views for finding in rule(view, target)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
