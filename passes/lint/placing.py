"""Rules about where Q and DQ stand: what they tear apart, and what they leave behind in float."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from onnx import NodeProto

from passes.lint.view import STANDARD, Finding, Quantizer, View, attribute
from passes.placement import CONVOLUTIONS, WEIGHTED
from passes.targets import Target

EPILOGUES = frozenset({  # what a layer can do to its output before writing it
    "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu", "Mish",
    "BatchNormalization",
})  # fmt: skip


def qdq_before_activation(view: View, target: Target) -> Iterator[Finding]:
    """Q and DQ between a layer and the activation that could be part of its kernel."""
    if target.weights_only or target.everything:
        return
    others = frozenset() if target.output_required else EPILOGUES - set(target.rules)
    for node in view.nodes:
        after = view.quantizer_after(node.output[0]) if node.op_type in WEIGHTED else None
        back = view.only_reader(after.output) if after is not None else None
        if after is None or back is None or view.dequantizer(back.output[0]) is None or back.output[0] in view.outputs:
            continue
        readers = view.readers(back.output[0])
        found = [each for each in readers if each.op_type in target.absorbs | others]
        written = {name for each in found for name in each.output}
        if not found or any(each not in found and not written & set(each.input) for each in readers):
            continue  # somebody else reads it too
        if found[0].op_type == "Relu" and _lowest(after) >= 0:
            continue  # the quantizer has done what Relu would do
        message = f"{after.label} stands between {view.label(node)} and its {found[0].op_type}"
        fix = "quantize after the activation only"
        yield Finding("warning", "qdq-before-activation", view.label(node), message, fix)


def add_both_quantized(view: View, target: Target) -> Iterator[Finding]:
    """Both inputs of a residual Add are quantized, so that it can't become the end of the convolution before it."""
    if not target.skip_branch_only:
        return
    for node in view.nodes:
        inputs = [view.activation(name) for name in node.input] if node.op_type == "Add" else []
        if len(inputs) != 2 or None in inputs:
            continue
        for each in inputs:
            before = view.quantizer(each.data) if each is not None else None
            layer = view.writer(before.data) if before is not None else None
            if each is None or before is None or layer is None or layer.op_type not in CONVOLUTIONS:
                continue
            if all(view.only_reader(name) is not None for name in (before.data, before.output, each.output)):
                message = f"both inputs are quantized: {before.label} keeps it from ending {view.label(layer)}"
                fix = "take out the Q and DQ between the convolution and the Add, leave those of the other input"
                yield Finding("warning", "add-both-quantized", view.label(node), message, fix)
                break


def concat_scales(view: View, target: Target) -> Iterator[Finding]:
    """A Concat of integers with different scales costs a kernel that brings them to one."""
    if not target.one_scale_concat:
        return
    for node in view.nodes:
        inputs = [view.activation(name) for name in node.input] if node.op_type == "Concat" else []
        known = [each for each in inputs if each is not None]
        after = view.quantizer_after(node.output[0])
        if known and len(known) == len(inputs) and after is not None and not _alike([*known, after]):
            message = f"its {len(inputs)} inputs and its output have different scales"
            fix = "give them one scale, or leave the Concat in float if their ranges are far apart"
            yield Finding("warning", "concat-scales", view.label(node), message, fix)


def scale_changes(view: View, target: Target) -> Iterator[Finding]:
    """An operator that only moves data between integers of different scales is computed in float."""
    for node in view.nodes:
        if target.kind(node.op_type, partial(attribute, node)) != "same-scale" or not node.input:
            continue
        before = view.activation(node.input[0])
        after = [view.quantizer_after(name) for name in node.output]
        known = [each for each in after if each is not None]
        if before is not None and known and not _alike([before, *known]):
            message = f"{node.op_type} has another scale or zero-point at its output than at its input"
            yield Finding("warning", "scale-changes", view.label(node), message, "give both the same")


def activation_type(view: View, target: Target) -> Iterator[Finding]:
    """Activations in a type that the runtime reads, but for which its kernels are slow or missing."""
    if target.weights_only or target.reader.misfit != "misread":
        return
    slow = {"uint8", "int8", *(("int16", "uint16") if target.output_required else ())} - {target.activation}
    for each in view.quantizers:
        if not each.dequantizes and each.stored is None and each.type in slow:
            message = f"{each.data} is quantized to {each.type}; the kernels of {target.name} want {target.activation}"
            yield Finding(
                "warning", "activation-type", each.label, message, f"quantize activations to {target.activation}"
            )


def weights_only(view: View, target: Target) -> Iterator[Finding]:
    """Quantized activations on a runtime without integer kernels: two more kernels each, and nothing gained."""
    if not target.weights_only:
        return
    for each in view.quantizers:
        if not each.dequantizes and each.stored is None:
            message = f"activation {each.data} is quantized, and {target.name} has no integer kernel that would read it"
            yield Finding("warning", "weights-only", each.label, message, "quantize weights only")


def partly_quantized(view: View, target: Target) -> Iterator[Finding]:
    """A node with some of its inputs and outputs in integers, where only whole units run on the accelerator."""
    if not target.everything:
        return
    for node in view.nodes:
        if node.op_type not in target.rules or node.domain not in STANDARD:
            continue
        sides = {
            name: view.dequantizer(name) is not None for name in data_inputs(node, target) if not view.stored(name)
        }
        sides |= {name: _ends_in_quantizer(view, name, target) for name in node.output if view.readers(name)}
        if any(sides.values()) and not all(sides.values()):
            missing = ", ".join(name for name, quantized in sides.items() if not quantized)
            message = f"{missing} is in float, while the rest of this {node.op_type} is in integers"
            yield Finding("warning", "partly-quantized", view.label(node), message, "quantize all inputs and outputs")


def data_inputs(node: NodeProto, target: Target) -> list[str]:
    """The inputs of a node that carry activations."""
    count = {"concat": len(node.input), "elementwise": 2}.get(target.rules.get(node.op_type, ""), 1)
    return [name for name in node.input[:count] if name]


def _ends_in_quantizer(view: View, name: str, target: Target) -> bool:
    """Whether a tensor is quantized, at once or after an activation that its quantizer absorbs."""
    if any(view.quantizes(each) for each in view.readers(name)):
        return True
    reader = view.only_reader(name)
    absorbed = reader is not None and reader.op_type in target.absorbs
    return absorbed and reader is not None and any(view.quantizes(each) for each in view.readers(reader.output[0]))


def lowest_highest(each: Quantizer) -> tuple[float, float]:
    """The smallest and the largest number that a quantizer with one scale can write; infinite where unknown."""
    known = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
    limits = known.get(each.type if each.has_zero else each.type or "uint8")
    if each.scale is None or limits is None or each.scale.size != 1:
        return -np.inf, np.inf
    zero = 0 if each.zero is None else int(each.zero.flat[0])
    low, high = ((limit - zero) * float(each.scale.flat[0]) for limit in limits)
    return low, high


def _lowest(each: Quantizer) -> float:
    return lowest_highest(each)[0]


def _alike(quantizers: list[Quantizer]) -> bool:
    """Whether all have the same scale and zero-point, as far as these are known."""
    for values in ([each.scale for each in quantizers], [each.zero for each in quantizers]):
        known = [value.ravel() for value in values if value is not None]
        if any(not np.array_equal(value, known[0]) for value in known):
            return False
    return True
