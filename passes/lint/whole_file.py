"""Rules about the file as a whole: its opset, its operators, whether it is quantized at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from passes.lint.view import STANDARD, Finding, Quantizer, View
from passes.targets import Target

SINCE = {  # opset: types of codes and of scales that Q and DQ know from there on
    19: ("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float16", "bfloat16"),
    21: ("int4", "uint4", "int16", "uint16"),
    23: ("float4e2m1",),
    25: ("int2", "uint2"),
}


def not_quantized(view: View, target: Target) -> Iterator[Finding]:
    """The model holds no quantization at all: it runs, in float."""
    operators = {node.op_type.lower() for each in view.walk() for node in each.nodes}
    if view.outer is None and not any(word in op for op in operators for word in ("qlinear", "quantize", "integer")):
        message = "no operator of the model quantizes anything: it is a float model"
        yield Finding("note", "not-quantized", "", message, f"onnxdfq quantize model.onnx --target {target.name}")


def opset(view: View, target: Target) -> Iterator[Finding]:
    """The opset is outside of what the runtime reads with Q/DQ in it: newer ones are refused, older ones lack types."""
    oldest, newest = target.opsets
    fix = f"export or convert the model to an opset of {oldest} to {newest}"
    if view.outer is None and view.opset > newest:
        message = f"opset {view.opset} is newer than {newest}, the newest that {target.name} reads"
        yield Finding("error", "opset", "", message, fix)
    if view.outer is None and view.opset < oldest:
        message = f"opset {view.opset} is older than {oldest}, where Q/DQ learned to have a scale for each channel"
        yield Finding("warning", "opset", "", message, fix)


def opset_feature(view: View, target: Target) -> Iterator[Finding]:
    """Q or DQ use what came with a later opset than the model declares, so that runtimes refuse or drop it."""
    for each in view.quantizers:
        if each.node.domain not in STANDARD:
            continue
        needed, feature = max(_features(each))
        if needed > view.opset:
            message = f"{feature} came with opset {needed}, the model declares {view.opset}"
            yield Finding(
                "error", "opset-feature", each.label, message, f"convert the model to opset {needed} or newer"
            )


def custom_op(view: View, target: Target) -> Iterator[Finding]:
    """An operator that neither ONNX nor the runtime knows: the model does not load without a plugin for it."""
    local = {(function.domain, function.name) for function in view.model.functions}
    for node in view.nodes:
        known = onnx.defs.has(node.op_type) if node.domain in STANDARD else node.domain in target.reader.domains
        if not known and (node.domain, node.op_type) not in local:
            name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            message = f"{name} is an operator that {target.name} does not know"
            yield Finding("error", "custom-op", view.label(node), message, "export the model with ONNX's own operators")


def integer_op(view: View, target: Target) -> Iterator[Finding]:
    """QLinearConv, MatMulInteger and their like, which this runtime does not run as they are: it wants Q/DQ."""
    fix = "quantize in QDQ format (onnxruntime: quant_format=QuantFormat.QDQ)"
    for node in view.nodes:
        if node.domain not in STANDARD:
            continue
        if node.op_type in target.reader.fails:
            message = f"{node.op_type} is refused or comes out wrong on {target.name}"
            yield Finding("error", "integer-op", view.label(node), message, fix)
        elif node.op_type in target.reader.elsewhere:
            message = f"{target.name} leaves {node.op_type} to another processor, with copies in between"
            yield Finding("warning", "integer-op", view.label(node), message, fix)


def _features(each: Quantizer) -> Iterator[tuple[int, str]]:
    """(opset, what it brought) for everything that a Q or DQ uses."""
    yield 10, each.node.op_type
    if each.axis is not None or each.per_channel:
        yield 13, "a scale for each channel"
    if each.block:
        yield 21, "a scale for each block"
    if not each.dequantizes and any(attribute.name == "output_dtype" for attribute in each.node.attribute):
        yield 21, "output_dtype"
    used = {each.type, each.stored_type, "" if each.scale is None else np.dtype(each.scale.dtype).name}
    for since, types in SINCE.items():
        for name in sorted(used & set(types)):
            yield since, name
