"""Insert QuantizeLinear and DequantizeLinear as a plan says. Nothing is decided here.

    x -> Conv(W)        becomes        x -> Q -> DQ -> Conv <- DQ <- Q <- W

Weights stay in float behind their Q, so that they can still be tuned; freeze_weights turns them into integers. Scale,
zero-point and axis are always written: runtimes differ in what they assume when one is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult
from passes.plan import QuantParams, QuantPlan


@dataclass(frozen=True)
class InsertQDQ(Pass):
    """Apply a plan. Raises KeyError for a tensor that the graph does not have."""

    name: ClassVar[str] = "insert-qdq"
    plan: QuantPlan

    def __call__(self, graph: gs.Graph) -> PassResult:
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
            is_output = name in outputs and len(readers) == len(tensor.outputs) and not isinstance(tensor, gs.Constant)
            if not readers and not is_output:
                continue
            dequantized = _pair(graph, tensor, params, taken)
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


PARTS = ("scale", "zero_point", "quantized", "dequantized")


def _free_base(name: str, taken: set[str]) -> str:
    """What the names of a pair's new tensors begin with: the tensor's own name, unless the model uses one of them."""
    base = name
    while any(f"{base}_{part}" in taken for part in PARTS):
        base += "_q"
    taken.update(f"{base}_{part}" for part in PARTS)
    return base


def _pair(graph: gs.Graph, tensor: gs.Tensor, params: QuantParams, taken: set[str]) -> gs.Variable:
    base = _free_base(tensor.name, taken)
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
