"""Insert QuantizeLinear and DequantizeLinear as a plan says. Nothing is decided here.

    x -> Conv(W)        becomes        x -> Q -> DQ -> Conv <- DQ <- Q <- W

An activation that keeps to some of the codes of its type is clipped to what they stand for; a Relu or a Clip before it,
which nobody else reads, does that on the way:

    x -> Conv(W)        becomes        x -> Clip -> Q -> DQ -> Conv ...
    Relu -> Conv(W)     becomes        Clip(0, highest) -> Q -> DQ -> Conv ...

Weights stay in float behind their Q, so that they can still be tuned; freeze_weights turns them into integers. Scale,
zero-point and axis are always written: runtimes differ in what they assume when one is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult
from passes.opset import bring_to_opset
from passes.plan import QuantParams, QuantPlan

SINCE = {"uint16": 21, "int16": 21}  # opset from which Q and DQ know a type


@dataclass(frozen=True)
class InsertQDQ(Pass):
    """Apply a plan, in a newer opset where its types need one.

    Raises KeyError for a tensor that the graph does not have, ValueError where it can't be brought to the opset.
    """

    name: ClassVar[str] = "insert-qdq"
    plan: QuantPlan

    def __call__(self, graph: gs.Graph) -> PassResult:
        needed = max([SINCE.get(params.dtype, 0) for params in self.plan.tensors.values()], default=0)
        if needed > graph.opset:
            bring_to_opset(graph, needed)
        tensors = graph.tensors()
        taken = set(tensors)
        outputs = {tensor.name: position for position, tensor in enumerate(graph.outputs)}
        changed = 0
        for name, params in self.plan.tensors.items():
            tensor = tensors[name]
            if isinstance(tensor, gs.Constant):
                readers = list(tensor.outputs)
            else:
                chosen = set(self.plan.readers.get(name, ()))
                readers = [node for node in tensor.outputs if node.name in chosen]
            alone = len(readers) == len(tensor.outputs)
            is_output = name in outputs and alone and not isinstance(tensor, gs.Constant)
            if not readers and not is_output:
                continue
            clip = params.codes is not None and not isinstance(tensor, gs.Constant)
            limits = _limits(tensor) if clip and alone else None
            if limits is not None:  # the bounds of that Clip give up their names
                taken.difference_update(each.name for each in tensor.inputs[0].inputs[1:] if len(each.outputs) == 1)
            base = _free_base(tensor.name, taken)
            source = _clipped(graph, tensor, params, base, limits) if clip else tensor
            dequantized = _pair(graph, source, params, base)
            for node in readers:
                node.inputs = [dequantized if each is tensor else each for each in node.inputs]
            if is_output and _written_in_integers(tensor):
                _take_name(tensor, dequantized)
                graph.outputs[outputs[name]] = dequantized
            changed += 1
        graph.cleanup().toposort()
        return PassResult(changed)


def _written_in_integers(tensor: gs.Tensor) -> bool:
    """An output of the model is dequantized only where a node of the model wrote it; an input stays as it came."""
    return bool(tensor.inputs)


def _take_name(old: gs.Tensor, new: gs.Tensor) -> None:
    """An output of the model keeps its name: the tensor before the quantizer gives it up."""
    new.name, old.name = old.name, f"{old.name}_float"
    new.dtype, new.shape = old.dtype, old.shape


BOUNDS = ("clip_low", "clip_high", "relu_low", "relu_high")
PARTS = ("scale", "zero_point", "quantized", "dequantized", "clipped", *BOUNDS)


def _free_base(name: str, taken: set[str]) -> str:
    """What the names of a pair's new tensors begin with: the tensor's own name, unless the model uses one of them."""
    base = name
    while any(f"{base}_{part}" in taken for part in PARTS):
        base += "_q"
    taken.update(f"{base}_{part}" for part in PARTS)
    return base


def _clipped(
    graph: gs.Graph, tensor: gs.Tensor, params: QuantParams, base: str, limits: tuple[float, float] | None
) -> gs.Tensor:
    """The tensor within the numbers that its codes stand for. limits: of its writer, where that shall do it."""
    codes = np.array(params.codes, np.float32)
    low, high = np.clip(limits or (-np.inf, np.inf), *(codes - params.zero_point[0]) * np.float32(params.scale[0]))
    kind = "clip" if limits is None else tensor.inputs[0].op.lower()  # tells remove_qdq what stood here
    ends = (("low", low), ("high", high))
    bounds = [gs.Constant(f"{base}_{kind}_{end}", np.array(value, np.float32)) for end, value in ends]
    if limits is not None:
        writer = tensor.inputs[0]
        writer.op, writer.inputs = "Clip", [writer.inputs[0], *bounds]
        return tensor
    clipped = gs.Variable(f"{base}_clipped", tensor.dtype, tensor.shape)
    graph.layer(op="Clip", name=f"{base}_Clip", inputs=[tensor, *bounds], outputs=[clipped])
    return clipped


def _limits(tensor: gs.Tensor) -> tuple[float, float] | None:
    """What the Relu or the Clip that writes a tensor lets through; None where there is none, or its bounds vary."""
    writer = tensor.inputs[0] if tensor.inputs else None
    if writer is None or writer.op not in ("Relu", "Clip"):
        return None
    limits = [0.0 if writer.op == "Relu" else -np.inf, np.inf]
    for position, bound in enumerate(writer.inputs[1:]):
        if isinstance(bound, gs.Constant):
            limits[position] = bound.values.item()  # some exporters give it an axis of one
        elif not bound.is_empty():
            return None
    return limits[0], limits[1]


def _pair(graph: gs.Graph, tensor: gs.Tensor, params: QuantParams, base: str) -> gs.Variable:
    whole = params.axis is None
    shape: tuple[int, ...] = () if whole else (len(params.scale),)
    scale = gs.Constant(f"{base}_scale", np.array(params.scale, np.float32).reshape(shape))
    zero = gs.Constant(f"{base}_zero_point", np.array(params.zero_point, params.dtype).reshape(shape))
    # The standard's default axis is 1 and one parser's is 0; for a single scale it means nothing and is left out,
    # as that parser refuses an axis outside of a tensor without dimensions.
    attrs = {} if whole else {"axis": params.axis}
    codes = gs.Variable(f"{base}_quantized", np.dtype(params.dtype), tensor.shape)
    dequantized = gs.Variable(f"{base}_dequantized", np.dtype(np.float32), tensor.shape)
    graph.layer(op="QuantizeLinear", name=f"{base}_Q", inputs=[tensor, scale, zero], outputs=[codes], attrs=attrs)
    graph.layer(
        op="DequantizeLinear", name=f"{base}_DQ", inputs=[codes, scale, zero], outputs=[dequantized], attrs=attrs
    )  # fmt: skip
    return dequantized
