"""Rules about the axis along which scales run: missing, meaningless, or not that of the layer's output channels."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from passes.lint.view import Finding, Quantizer, View, attribute
from passes.placement import CONVOLUTIONS, WEIGHTED
from passes.targets import Target


def axis_missing(view: View, target: Target) -> Iterator[Finding]:
    """Scales for each channel without an axis: ONNX then means 1, TensorRT's parser 0, and a convolution needs 0."""
    for each in view.quantizers:
        if not each.per_channel or each.axis is not None:
            continue
        assumed = target.reader.assumed_axis
        message = f"{_count(each)} scales without an axis: ONNX then means axis 1"
        if assumed != 1:
            yield Finding("error", "axis-missing", each.label, f"{message}, {target.name} {assumed}", "write the axis")
        else:
            yield Finding("note", "axis-missing", each.label, f"{message}, other runtimes 0", "write the axis")


def axis_scalar(view: View, target: Target) -> Iterator[Finding]:
    """An axis beside a single scale: it means nothing, but TensorRT's parser refuses one that the tensor lacks."""
    if target.reader.misfit != "refused":
        return
    for each in view.quantizers:
        if each.axis is None or each.scale is None or each.scale.size > 1:
            continue
        fix = "leave out the axis of quantizers with one scale; do not quantize scalars"
        if each.shape is None:
            message = f"axis {each.axis} beside a single scale, refused if {each.data} has fewer dimensions"
            yield Finding("warning", "axis-scalar", each.label, message, fix)
        elif not -len(each.shape) <= each.axis <= len(each.shape):
            message = f"axis {each.axis} beside a single scale of {each.data}, which has {len(each.shape)} dimensions"
            yield Finding("error", "axis-scalar", each.label, message, fix)
        else:
            yield Finding("note", "axis-scalar", each.label, "an axis beside a single scale means nothing", fix)


def axis_wrong(view: View, target: Target) -> Iterator[Finding]:
    """Scales that run along an axis which the tensor lacks, whose length differs, or which is not that of the layer's
    output channels: integer kernels take them for scales of output channels and give wrong numbers, silently."""
    for each in view.quantizers:
        problem = _misshapen(each, target)
        if problem:
            fix = "write one scale and one zero-point for each channel of the axis"
            yield Finding("error", "axis-wrong", each.label, problem, fix)
    for node in view.nodes:
        found = view.weights(node) if node.op_type in WEIGHTED else None
        if found is None or not found[0].per_channel or _misshapen(found[0], target):
            continue
        each, order = found
        rank = len(each.shape or ())
        axis = _axis(each, target) % rank
        seen, wanted = axis if order is None else order.index(axis), channel_axis(node, rank)
        misfit = target.reader.misfit
        if seen == wanted or (misfit == "misread" and not _fused(view, node, each, target)):
            continue
        outcome = {"refused": "refused", "misread": "wrong numbers", "computed": "the layer stays in float"}[misfit]
        message = f"the scales of {view.label(node)} run along axis {seen} of its weights, not {wanted}: {outcome}"
        fix = f"quantize the weights along axis {wanted}, that of the output channels"
        yield Finding("warning" if misfit == "computed" else "error", "axis-wrong", each.label, message, fix)


def activation_per_channel(view: View, target: Target) -> Iterator[Finding]:
    """An activation with a scale for each channel: integer kernels take one for the whole tensor."""
    for each in view.quantizers:
        if each.per_channel and each.stored is None and not each.dequantizes:
            computed = target.reader.misfit == "computed"
            outcome = "what reads it stays in float" if computed else f"{target.name} refuses it or fails when it runs"
            message = f"activation {each.data} has {_count(each)} scales: {outcome}"
            fix = "quantize activations with one scale"
            yield Finding("warning" if computed else "error", "activation-per-channel", each.label, message, fix)


def convtranspose_per_channel(view: View, target: Target) -> Iterator[Finding]:
    """A ConvTranspose with a scale for each channel: builders disagree on the axis, and refuse grouped ones."""
    for node in view.nodes:
        found = view.weights(node) if node.op_type in target.per_tensor_weights else None
        if found is None or not found[0].per_channel or target.weights_only:
            continue
        grouped = attribute(node, "group", 1) > 1 and target.reader.misfit == "refused"
        message = f"{view.label(node)} has {_count(found[0])} weight scales" + (" and groups" if grouped else "")
        yield Finding(
            "error" if grouped else "warning", "convtranspose-per-channel", found[0].label,
            f"{message}: versions of {target.name} disagree on the axis", f"give {node.op_type} weights one scale",
        )  # fmt: skip


def channel_axis(node: NodeProto, rank: int) -> int:
    """The axis of a layer's second operand that counts its output channels."""
    if node.op_type in CONVOLUTIONS:
        return 0 if node.op_type == "Conv" else 1
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return rank - 2 if transposed else rank - 1


def _fused(view: View, node: NodeProto, weights: Quantizer, target: Target) -> bool:
    """Whether an integer kernel takes the place of a layer, rather than its operators being computed one by one."""
    integers = weights.type in ("int8", "uint8") and view.activation(node.input[0]) is not None
    return integers and target.rules.get(node.op_type) == "weighted"


def _axis(each: Quantizer, target: Target) -> int:
    return target.reader.assumed_axis if each.axis is None else each.axis


def _misshapen(each: Quantizer, target: Target) -> str:
    """What is wrong with the scales of a quantizer in itself; empty when nothing is."""
    if each.scale is not None and each.zero is not None and each.scale.size != each.zero.size:
        return f"{each.scale.size} scales and {each.zero.size} zero-points"
    if not each.per_channel or each.shape is None:
        return ""
    axis, rank = _axis(each, target), len(each.shape)
    if not -rank <= axis < rank:
        return f"axis {axis} of {each.data}, which has {rank} dimensions"
    length = each.shape[axis]
    return (
        f"{_count(each)} scales for the {length} entries of axis {axis}" if length not in (None, _count(each)) else ""
    )


def _count(each: Quantizer) -> int:
    return 0 if each.scale is None else each.scale.size
