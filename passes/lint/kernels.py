"""Rules for runtimes that fuse Q, an operator and DQ into an integer kernel: what keeps them from doing so.

x -> Q -> DQ -> Conv -> Relu -> Q -> DQ        QLinearConv, if the range of the last Q ends where Relu does
x -> Q -> DQ -> Conv -> Relu                   a float Conv, whose weights are dequantized at every run
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto

from passes.lint.placing import data_inputs, lowest_highest
from passes.lint.view import STANDARD, Finding, Quantizer, View, attribute
from passes.placement import WEIGHTED
from passes.targets import Target

FEW_CODES = frozenset(2**bits for bits in range(2, 8))


def fusion_broken(view: View, target: Target) -> Iterator[Finding]:
    """A quantized operator that nevertheless runs in float, with Q and DQ around it that cost more than they gain."""
    if not target.output_required:
        return
    for node in view.nodes:
        if node.domain not in STANDARD:
            continue
        problem, fix = _layer(view, target, node) if node.op_type in WEIGHTED else _joined(view, target, node)
        if problem:
            yield Finding(
                "warning", "fusion-broken", view.label(node), f"{node.op_type} stays in float: {problem}", fix
            )


def float_between(view: View, target: Target) -> Iterator[Finding]:
    """An operator between DQ and Q for which there is no integer kernel: it runs in float all the same."""
    if not target.output_required:
        return
    known = {*target.rules, *target.absorbs, *target.reader.kernels, *WEIGHTED, "Identity"}
    for node in view.nodes:
        if node.op_type in known or node.domain not in STANDARD:
            continue
        computed = [name for name in node.input if name and view.stored(name) is None]
        between = computed and all(view.activation(name) is not None for name in computed)
        if between and all(view.quantizer_after(name) is not None for name in node.output if name):
            message = f"{target.name} has no integer kernel for {node.op_type}: it runs in float"
            fix = "nothing to mend; another operator in its place may run in integers"
            yield Finding("note", "float-between", view.label(node), message, fix)


def few_bits(view: View, target: Target) -> Iterator[Finding]:
    """Activations that a Clip keeps to the codes of fewer than 8 bits: what comes before them runs in float."""
    if not target.output_required:
        return
    writers = [(each, view.writer(each.data)) for each in view.quantizers if not each.dequantizes]
    count = sum(node is not None and _keeps_to_codes(node, view, each) for each, node in writers)
    if count:
        message = f"a Clip keeps {count} activations to fewer codes than 8 bits have; {target.name} does not fuse it"
        yield Finding("note", "few-bits", "", message, "activations of 8 bits where speed is wanted (--act-bits 8)")


def _layer(view: View, target: Target, node: NodeProto) -> tuple[str, str]:
    """Why a layer with dequantized weights stays in float, and what to do; empty when it does not."""
    if view.weights(node) is None:
        return "", ""
    if target.rules.get(node.op_type) != "weighted":
        return f"{target.name} has no integer kernel for it, weights are dequantized at every run", "leave it in float"
    required = node.op_type in target.output_required
    if view.activation(node.input[0]) is None:
        product = not required and not attribute(node, "transB", 0)  # has a kernel for integer weights alone
        problem = "only its weights are quantized, they are dequantized at every run"
        return ("", "") if product else (problem, "quantize its input too, or nothing of it")
    return _output(view, target, node, required)


def _output(view: View, target: Target, node: NodeProto, required: bool) -> tuple[str, str]:
    """What is wrong with the way from a node to the one quantizer that may follow it.

    On it are activations that the quantizer absorbs and, after them, operators through which it is moved up.
    """
    name = node.output[0]
    absorbed: list[NodeProto] = []
    passing = target.absorbs | target.reader.climbs
    while (after := view.quantizer_after(name)) is None:
        if any(view.quantizes(each) for each in view.readers(name)):
            return f"{name} is quantized, but also read in float", "let all its readers read it quantized"
        follower = view.only_reader(name)
        if follower is None or follower.op_type not in passing:
            return _unquantized(view, name, follower) if required else ("", "")
        if follower.op_type in target.absorbs:
            absorbed.append(follower)
        else:
            passing = target.reader.climbs
        name = follower.output[0]
    return _absorption(view, absorbed, after)


def _unquantized(view: View, name: str, follower: NodeProto | None) -> tuple[str, str]:
    """How to say that the output of a layer is not quantized."""
    if follower is not None and any(view.quantizer_after(written) for written in follower.output):
        return f"{follower.op_type} stands between it and the quantizer", f"quantize before {follower.op_type} too"
    return f"its output {name} is not quantized", "quantize its output too"


def _absorption(view: View, absorbed: list[NodeProto], after: Quantizer) -> tuple[str, str]:
    """An activation vanishes into a quantizer only if that one's range ends, within half a step, where it does."""
    low, high = lowest_highest(after)
    if after.scale is None or not np.isfinite(low):
        return "", ""
    half = float(after.scale.flat[0]) / 2
    for node in absorbed:
        if _keeps_to_codes(node, view, after):
            break  # on purpose: few_bits tells
        least, most = (0.0, np.inf) if node.op_type == "Relu" else _bounds(node, view)
        if not (least <= low + half and high - half <= most):
            problem = f"{after.label} quantizes {low:.4g} to {high:.4g}, more than {node.op_type} lets through"
            return problem, f"end the quantizer's range where {node.op_type} does (zero-point at the lowest code)"
    return "", ""


def _keeps_to_codes(node: NodeProto, view: View, after: Quantizer) -> bool:
    """Whether a Clip lets through what exactly 2^b codes of the quantizer after it stand for, b below 8."""
    if node.op_type != "Clip" or after.scale is None or after.scale.size != 1:
        return False
    ends = np.array(_bounds(node, view)) / float(after.scale.flat[0])
    if not np.isfinite(ends).all() or not np.allclose(ends, np.rint(ends), atol=1e-3):
        return False
    return int(np.rint(ends[1] - ends[0])) + 1 in FEW_CODES


def _bounds(node: NodeProto, view: View) -> tuple[float, float]:
    """What a Clip lets through; nothing certain where its bounds are computed."""
    bounds = [attribute(node, "min", -np.inf), attribute(node, "max", np.inf)]  # before opset 11
    for position in (1, 2):
        if len(node.input) > position and node.input[position]:
            value = view.values(node.input[position])
            bounds[position - 1] = np.nan if value is None else value.item()
    return bounds[0], bounds[1]


def _joined(view: View, target: Target, node: NodeProto) -> tuple[str, str]:
    """Why a node of several activations stays in float, and what to do; empty when it does not."""
    if target.rules.get(node.op_type) not in ("elementwise", "concat"):
        return "", ""
    inputs = data_inputs(node, target)
    quantized = [view.dequantizer(name) is not None for name in inputs]
    after = view.quantizer_after(node.output[0])
    follower = view.only_reader(node.output[0])
    if after is None and follower is not None and follower.op_type in target.absorbs:
        after = view.quantizer_after(follower.output[0])
    if all(quantized):
        return _output(view, target, node, False)
    if after is None or not any(quantized):
        return "", ""
    missing = ", ".join(name for name, known in zip(inputs, quantized, strict=True) if not known)
    return f"{missing} is in float, while its other input and its output are quantized", "quantize all inputs"
