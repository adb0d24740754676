"""A node whose gradient is checked, its inputs, and a model of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

BRANCHES = ("then_branch", "else_branch")
# Inside of the engine their outputs are floats, with a gradient, but as outputs of a graph they are integers.
WHOLE = {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}


@dataclass(frozen=True)
class Real:
    """An input that the gradient is taken with respect to: distinct values between ``low`` and ``high``.

    Evenly spread, so that none is equal to another one, nor within reach of a finite difference of zero.
    """

    shape: tuple[int, ...]
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]

    def values(self, position: int) -> np.ndarray:
        """Other ones at every ``position``, as inputs of the same shape must not be equal."""
        size = int(np.prod(self.shape))
        spread = (np.random.default_rng(position).permutation(size) + (0.37 + 0.618 * position) % 1) / size
        return np.add(self.low, np.subtract(self.high, self.low) * spread.reshape(self.shape))


@dataclass(frozen=True)
class Case:
    """A node: its inputs are Real, or constants in anything that numpy takes, or None where they are left out."""

    domain: str
    op: str
    opset: int
    inputs: tuple[Any, ...]
    outputs: int
    attributes: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.domain}::{self.op}" if self.domain else self.op

    def __str__(self) -> str:
        inputs = ", ".join(map(_shown, self.inputs))
        options = [f"{name}={value}" for name, value in self.attributes.items() if name not in BRANCHES]
        options += [f"outputs={self.outputs}"] if self.outputs > 1 else []
        return " ".join([f"{self.title}-{self.opset}({inputs})", *(option.replace(" ", "") for option in options)])

    def node(self) -> onnx.NodeProto:
        """Its inputs are in0, in1, ...; the branches of If see them all without being given them."""
        names = [f"in{i}" if value is not None else "" for i, value in enumerate(self.inputs)]
        names = names[:1] if self.op == "If" else names
        outputs = [f"out{i}" for i in range(self.outputs)]
        return helper.make_node(self.op, names, outputs, domain=self.domain, **self.attributes)

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            f"in{i}": np.asarray(value.values(i) if isinstance(value, Real) else value)
            for i, value in enumerate(self.inputs)
            if value is not None
        }

    def reals(self) -> list[str]:
        """The names of the inputs that the gradient is taken with respect to."""
        return [f"in{i}" for i, value in enumerate(self.inputs) if isinstance(value, Real)]

    def model(self, fed: list[str]) -> onnx.ModelProto:
        """The node with the inputs ``fed`` as inputs of the graph and all others as initializers."""
        arrays, outputs = self.arrays(), [f"out{i}" for i in range(self.outputs)]
        nodes = [self.node()]
        if self.op in WHOLE:
            wholes, outputs = outputs, [f"{name}_real" for name in outputs]
            nodes += [
                helper.make_node("Cast", [whole], [real], to=onnx.TensorProto.DOUBLE)
                for whole, real in zip(wholes, outputs, strict=True)
            ]
        types = {name: helper.np_dtype_to_tensor_dtype(arrays[name].dtype) for name in fed}
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info(name, element_type, None) for name, element_type in types.items()],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in fed],
        )
        opsets = {"": 13, self.domain: self.opset}
        return helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets.items()])

    def tensors(self, fed: list[str]) -> list[Tensor]:
        """What to call the model with."""
        arrays, reals = self.arrays(), self.reals()
        return [torch.from_numpy(arrays[name]).requires_grad_(name in reals) for name in fed]


def _shown(value: Any) -> str:
    if isinstance(value, Real):
        return "x".join(map(str, value.shape)) or "scalar"
    return "" if value is None else str(np.asarray(value).tolist()).replace(" ", "")


def r(*shape: int) -> Real:
    return Real(shape, -2, 2)


def within(low: float | tuple[float, ...], high: float | tuple[float, ...], *shape: int) -> Real:
    return Real(shape, low, high)


def case(title: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Case:
    """The node of ``title``, as in "Conv-11" or "com.microsoft::Gelu-1": operator and opset."""
    domain, _, name = title.rpartition("::")
    op, opset = name.split("-")
    return Case(domain, op, int(opset), inputs, outputs, attributes)
