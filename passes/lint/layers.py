"""Rules about the weights and biases of layers: bits, blocks, packed storage, biases in float or int32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from passes.lint.view import Finding, Quantizer, View, attribute
from passes.placement import CONVOLUTIONS, WEIGHTED
from passes.precise_biases import ROUNDED
from passes.targets import Target

BITS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}  # of packed types
FLOAT = TensorProto.FLOAT
FINER = 1e-3  # of that product: a scale that no integer kernel was meant for
BIAS_TOLERANCE = 1e-3  # of a bias scale, to the product of the two others


def int4_blocked_conv(view: View, target: Target) -> Iterator[Finding]:
    """4-bit weights with a scale for each block on a convolution: blocks are for matrix products only."""
    if target.weights_only:
        return
    for node, weights in _layers(view):
        if node.op_type in CONVOLUTIONS and weights.blocked and weights.type in BITS:
            refused = target.reader.misfit == "refused"
            outcome = f"{target.name} refuses it" if refused else "it stays in float"
            yield Finding(
                "error" if refused else "warning", "int4-blocked-conv", view.label(node),
                f"its {weights.type} weights have a scale for each block: {outcome}",
                "give convolutions one scale for each output channel",
            )  # fmt: skip


def int8_blocked(view: View, target: Target) -> Iterator[Finding]:
    """8-bit weights with a scale for each block, between integers: refused, or fused into a kernel that then fails."""
    refused = target.reader.misfit == "refused"
    if target.reader.misfit == "computed":
        return
    for node, weights in _layers(view):
        integers = view.activation(node.input[0]) is not None
        if weights.blocked and weights.type in ("int8", "uint8") and (integers or refused):
            in_float = node.op_type == "Gemm" and not refused
            outcome = "it stays in float" if in_float else f"{target.name} refuses it or fails when it runs"
            message = f"its {weights.type} weights have a scale for each block: {outcome}"
            fix = "give 8-bit weights one scale for each output channel"
            yield Finding("warning" if in_float else "error", "int8-blocked", view.label(node), message, fix)


def int4_unfused(view: View, target: Target) -> Iterator[Finding]:
    """Weights of 4 or 2 bits that go straight into a DequantizeLinear where that keeps the layer in float."""
    if target.weights_only or (target.reader.misfit == "misread" and not target.packed_from):
        return
    for node, weights in _layers(view):
        if weights.type not in BITS or weights.type not in target.reader.code_types:
            continue
        turned = target.reader.misfit == "misread" and bool(attribute(node, "transB", 0))
        if node.op_type in CONVOLUTIONS:
            if weights.blocked:
                continue  # a finding of its own
        elif view.activation(node.input[0]) is None and not turned:
            continue  # matrix products of a float activation have kernels for 4-bit weights
        fix = "put a Cast to INT8 between weights and DequantizeLinear" if target.packed_from else "store them as int8"
        message = f"its {weights.type} weights are dequantized at every run, and it computes in float"
        yield Finding("warning", "int4-unfused", view.label(node), message, fix)


def int4_odd(view: View, target: Target) -> Iterator[Finding]:
    """4-bit codes whose last dimension is odd: TensorRT packs two in a byte along it."""
    if target.reader.misfit != "refused":
        return
    for each in view.quantizers:
        last = each.shape[-1] if each.shape else 0
        if each.type in ("int4", "uint4") and last is not None and last % 2:
            message = f"{each.data} is {each.type} and its last dimension is {last}, an odd number"
            yield Finding("error", "int4-odd", each.label, message, "keep these weights in int8, or pad them")


def packed_cast(view: View, target: Target) -> Iterator[Finding]:
    """Packed weights behind a Cast to INT8: right where the runtime folds the Cast on loading, refused elsewhere."""
    widest = max((bits for bits, _ in target.packed_from), default=0)
    for each in view.quantizers:
        writer = view.writer(each.data)
        if writer is None or writer.op_type != "Cast" or each.stored_type not in BITS:
            continue
        if BITS[each.stored_type] > widest and target.reader.misfit == "refused":
            message = f"{each.data} is unpacked from {each.stored_type} by a Cast, which {target.name} does not read"
            yield Finding("error", "packed-cast", each.label, message, "store these weights as int8")


def weight_bits(view: View, target: Target) -> Iterator[Finding]:
    """Weights beyond the bits that the processor multiplies without overflow: sums saturate and numbers come out
    wrong, on such processors only."""
    largest = 2 ** (target.weight_bits - 1)
    if largest >= 128:
        return
    for node, weights in _layers(view):
        if weights.type not in ("int8", "uint8") or weights.stored_type != weights.type or weights.stored is None:
            continue
        codes = view.read(weights.stored).astype(np.int16)
        zero = 0 if weights.zero is None else int(weights.zero.flat[0])
        beyond = int(np.abs(codes - zero).max(initial=0))
        if beyond > largest:
            message = f"its weights reach {beyond} steps from zero; {target.name} multiplies up to {largest} safely"
            fix = f"quantize weights to {target.weight_bits} bits (onnxruntime: reduce_range=True)"
            yield Finding("warning", "weight-bits", view.label(node), message, fix)


def bias_float(view: View, target: Target) -> Iterator[Finding]:
    """A float bias where the integer kernel reads int32 from the file: the layer stays in float.

    A MatMul followed by the Add of a vector is a Gemm to runtimes that round biases themselves.
    """
    for node, _ in _layers(view):
        bias, written = (node.input[2] if len(node.input) > 2 else ""), node.output[0]
        added = view.only_reader(written) if node.op_type == "MatMul" and target.int32_bias else None
        if added is not None and added.op_type == "Add":
            vectors = [name for name in added.input if len(view.shape(name) or ()) == 1 and view.constant(name)]
            bias, written = (vectors[0] if vectors else ""), added.output[0]
        if not bias or ("Gemm" if added is not None else node.op_type) not in target.int32_bias_written:
            continue
        rounds = target.int32_bias and view.quantizer_after(written) is not None  # then the runtime does it
        if view.activation(node.input[0]) is None or view.dequantizer(bias) is not None or rounds:
            continue
        message = f"its bias {bias} is float, where the integer kernel of {target.name} reads int32"
        fix = "write the bias as int32 with input scale times weight scale"
        yield Finding("warning", "bias-float", view.label(node), message, fix)


def weights_rounded(view: View, target: Target) -> Iterator[Finding]:
    """Weights in float between integers, which the runtime rounds to 8 bits with one scale when it loads the model: a
    layer that was to stay float loses more than one that is quantized, if its channels differ."""
    if not target.int32_bias:
        return
    for node in view.nodes:
        weights = view.constant(node.input[1]) if node.op_type in ROUNDED else None
        if weights is None or weights.data_type != FLOAT or not _between_quantizers(view, node, target.reader.climbs):
            continue
        held = node.input[2] if len(node.input) > 2 else ""
        if held and (view.constant(held) is None or len(view.shape(held) or ()) != 1):
            continue
        message = f"its weights are float, between integers: {target.name} rounds them to 8 bits with one scale for all"
        fix = "quantize them with a scale for each channel; or give it a bias behind a DequantizeLinear of int32"
        yield Finding("warning", "weights-rounded", view.label(node), message, fix)


def _between_quantizers(view: View, node: NodeProto, climbs: frozenset[str]) -> bool:
    """Whether a layer reads a DQ with one scale and is read by a Q, through operators that these are moved past."""
    name = node.input[0]
    while (writer := view.writer(name)) is not None and writer.op_type in climbs:
        name = writer.input[0]
    before = view.activation(name)
    if before is None or before.scale is None or before.scale.size != 1:
        return False
    readers = view.readers(node.output[0])
    while len(readers) == 1 and readers[0].op_type in {"Relu", "Clip", *climbs}:
        readers = view.readers(readers[0].output[0])
    return len(readers) == 1 and readers[0].op_type == "QuantizeLinear"


def bias_scale(view: View, target: Target) -> Iterator[Finding]:
    """An int32 bias whose scale is not input scale times weight scale, which integer kernels take for granted."""
    if target.reader.misfit != "misread":
        return
    for node, weights in _layers(view):
        bias = view.dequantizer(node.input[2]) if len(node.input) > 2 else None
        data = view.activation(node.input[0])
        if bias is None or data is None or bias.scale is None or data.scale is None or weights.scale is None:
            continue
        if data.scale.size != 1:  # a finding of its own
            continue
        product = data.scale.astype(np.float64).ravel() * weights.scale.astype(np.float64).ravel()
        if bias.type != "int32" or bias.scale.size not in (1, product.size) or not product.all():
            continue
        worst = float(np.abs(bias.scale.ravel() / product - 1).max())
        product_layer = node.op_type not in CONVOLUTIONS
        if not product_layer and bias.scale.max() < FINER * product.min():
            continue  # finer on purpose, see passes/precise_biases.py
        if worst > BIAS_TOLERANCE:
            message = f"the scale of its int32 bias is off by up to {worst:.2g} of input scale times weight scale"
            outcome = "wrong numbers" if product_layer else "it stays in float"
            yield Finding(
                "error" if product_layer else "warning", "bias-scale", view.label(node), f"{message}: {outcome}",
                "quantize the bias with input scale times weight scale",
            )  # fmt: skip


def _layers(view: View) -> Iterator[tuple[NodeProto, Quantizer]]:
    """Layers with dequantized constant weights."""
    for node in view.nodes:
        found = view.weights(node) if node.op_type in WEIGHTED else None
        if found is not None:
            yield node, found[0]
