"""Rules about the codes of Q and DQ: their types, scales and zero-points."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from passes.lint.view import Finding, Quantizer, View
from passes.targets import Target


def bias_int32(view: View, target: Target) -> Iterator[Finding]:
    """A DequantizeLinear of int32, as onnxruntime's quantizer writes for biases, on a runtime that has no such."""
    if "int32" in target.reader.code_types:
        return
    for each in view.quantizers:
        if each.type == "int32":
            message = f"{each.data} is int32, which {target.name} does not dequantize"
            fix = "leave biases in float (onnxruntime: extra_options={'QuantizeBias': False})"
            yield Finding("error", "bias-int32", each.label, message, fix)


def code_type(view: View, target: Target) -> Iterator[Finding]:
    """Codes of a type that the runtime neither quantizes to nor dequantizes from, such as uint8 on TensorRT."""
    known = {*target.reader.code_types, "int32", ""}
    for each in _said_once(view):
        for name in dict.fromkeys((each.type, _packed_type(each))):
            if name not in known:
                message = f"{each.data} is quantized to {name}, which {target.name} does not read"
                yield Finding("error", "code-type", each.label, message, f"quantize to {target.activation}")


def zero_point(view: View, target: Target) -> Iterator[Finding]:
    """A zero-point other than 0 where the runtime refuses it, or where it keeps a layer in float."""
    if target.symmetric and target.reader.misfit == "refused":
        for each in _said_once(view):
            if _off_zero(each):
                message = f"{each.data} has zero-point {_off_zero(each)}; {target.name} takes 0 only"
                fix = "quantize symmetrically (onnxruntime: extra_options={'ActivationSymmetric': True})"
                yield Finding("error", "zero-point", each.label, message, fix)
    elif target.reader.symmetric_weights:
        for node in view.nodes:
            found = view.weights(node) if target.rules.get(node.op_type) == "weighted" else None
            if found is not None and _off_zero(found[0]):
                message = f"its weights have zero-point {_off_zero(found[0])}: it stays in float"
                fix = "quantize weights symmetrically (onnxruntime: extra_options={'WeightSymmetric': True})"
                yield Finding("warning", "zero-point", view.label(node), message, fix)


def zero_point_missing(view: View, target: Target) -> Iterator[Finding]:
    """A QuantizeLinear without zero-point: uint8 by the standard, int8 to TensorRT, which then gives other numbers."""
    if target.reader.assumed_type == "uint8":
        return
    for each in view.quantizers:
        if not each.dequantizes and not each.has_zero and not each.type:
            message = f"no zero-point: ONNX then means uint8, {target.name} {target.reader.assumed_type}"
            yield Finding("error", "zero-point-missing", each.label, message, "write the zero-point, of the type meant")


def scale_positive(view: View, target: Target) -> Iterator[Finding]:
    """A scale that is zero, negative, infinite or NaN, often that of a channel whose weights are all zero."""
    for each in view.quantizers:
        if each.scale is None:
            continue
        scale = each.scale.astype(np.float64)
        wrong = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))
        if wrong.size:
            value, where = scale.flat[wrong[0]], f" (the first at {wrong[0]})" if scale.size > 1 else ""
            message = f"{wrong.size} of {scale.size} scales not above 0: {value:g}{where}"
            yield Finding("error", "scale-positive", each.label, message, "give such channels any small positive scale")


def scale_computed(view: View, target: Target) -> Iterator[Finding]:
    """A scale that is computed when the model runs, on a runtime that plans its kernels around constant ones."""
    if target.reader.misfit != "refused":
        return
    for each in view.quantizers:
        if each.scale is None:
            message = f"the scale {each.node.input[1]} is not a constant"
            yield Finding("error", "scale-computed", each.label, message, "calibrate, so that scales are constants")


def pair_mismatch(view: View, target: Target) -> Iterator[Finding]:
    """A DequantizeLinear with another scale or zero-point than the QuantizeLinear before: values come out changed."""
    for each in view.quantizers:
        before = view.quantizer(each.data)
        if not each.dequantizes or before is None or before.dequantizes:
            continue
        if not (_same(each.scale, before.scale) and _same(each.zero, before.zero)):
            message = f"it does not undo {before.label}: scale or zero-point differ"
            yield Finding("warning", "pair-mismatch", each.label, message, "give both the same scale and zero-point")


def float_type(view: View, target: Target) -> Iterator[Finding]:
    """Scales in a float type for which the runtime has no integer kernels: the layers around stay in float."""
    for each in view.quantizers:
        name = "" if each.scale is None else np.dtype(each.scale.dtype).name
        if name and name not in target.float_types:
            message = f"scale in {name}; the kernels of {target.name} want {' or '.join(target.float_types)}"
            yield Finding("warning", "float-type", each.label, message, f"keep the model in {target.float_types[0]}")


def _said_once(view: View) -> Iterator[Quantizer]:
    """All Q, and those DQ that are not merely the other half of one with the same zero-point."""
    for each in view.quantizers:
        before = view.quantizer(each.data) if each.dequantizes else None
        if before is None or before.node.input[2:3] != each.node.input[2:3]:
            yield each


def _off_zero(each: Quantizer) -> str:
    """The first zero-point that is not 0, as text; "" when all are."""
    values = np.zeros(0) if each.zero is None else each.zero.astype(np.float64).ravel()
    return next((f"{value:g}" for value in values if value), "")


def _packed_type(each: Quantizer) -> str:
    """Type of weights that a Cast unpacks before they are dequantized; "" for all others."""
    return each.stored_type if each.dequantizes and each.stored_type in ("int4", "uint4", "int2", "uint2") else ""


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two parameters agree, as far as they are known."""
    return one is None or other is None or (one.size == other.size and np.array_equal(one.ravel(), other.ravel()))
