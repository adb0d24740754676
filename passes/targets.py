"""What a runtime accepts and fuses, as data. A new runtime is a new row here.

How an operator is treated is one word:

    weighted     reads an activation and constant weights in integers: Conv, Gemm, MatMul
    elementwise  Add and Mul of two activations
    concat       joins tensors
    unary        one activation in, one out, each with a scale of its own: average pools, Sigmoid
    same-scale   moves data or picks the largest: what comes out has the scale of what went in

Every other operator stays in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["weighted", "elementwise", "concat", "unary", "same-scale"]

_MOVES_DATA: tuple[str, ...] = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split",
)  # fmt: skip


def _rules(**kinds: tuple[str, ...]) -> Mapping[str, Kind]:
    return MappingProxyType({op: kind.replace("_", "-") for kind, ops in kinds.items() for op in ops})  # type: ignore[misc]


@dataclass(frozen=True)
class Target:
    """What one runtime wants.

    activation: integer type of activations, and ``symmetric``: whether their zero-point must be 0.
    rules: kind by operator; what is not in it stays in float.
    output_required: weighted operators that have an integer kernel only if their output is quantized too.
    absorbs: activations that vanish into the quantization of their output.
    every_reader: whether all readers of a quantized tensor read it quantized; else only those that gain by it.
    skip_branch_only: of an Add, quantize only the input that does not come from a layer, so that the Add can
        become the epilogue of the layer at the other input.
    one_scale_concat: inputs and output of a Concat share one scale.
    int32_bias: the runtime rounds float biases to int32 at (input scale * weight scale) ...
    int32_bias_written: ... but not of these operators: their kernel needs the bias in int32 in the file.
    min_channels: a convolution with fewer input or output channels than this stays in float.
    per_tensor_weights: operators whose weights get one scale.
    """

    name: str
    runtime: str
    activation: Literal["uint8", "int8"]
    symmetric: bool
    rules: Mapping[str, Kind]
    output_required: frozenset[str] = frozenset()
    absorbs: frozenset[str] = frozenset({"Relu", "Clip"})
    every_reader: bool = True
    skip_branch_only: bool = False
    one_scale_concat: bool = False
    int32_bias: bool = False
    int32_bias_written: frozenset[str] = frozenset()
    min_channels: int = 0
    per_tensor_weights: frozenset[str] = frozenset()


ORT_CPU = Target(
    name="ort-cpu",
    runtime="ONNX Runtime, CPU provider (x86)",
    activation="uint8",  # int8 activations are fused in rare cases only on x86
    symmetric=False,
    rules=_rules(
        weighted=("Conv", "Gemm", "MatMul"),  # there is no integer kernel for ConvTranspose
        elementwise=("Add", "Mul"),
        concat=("Concat",),
        unary=("GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu"),
        same_scale=_MOVES_DATA,
    ),
    output_required=frozenset({"Conv"}),
    int32_bias=True,
    int32_bias_written=frozenset({"Gemm"}),
)

TENSORRT = Target(
    name="tensorrt",
    runtime="NVIDIA TensorRT, explicit quantization",
    activation="int8",
    symmetric=True,
    rules=_rules(
        weighted=("Conv", "ConvTranspose", "Gemm", "MatMul"),
        elementwise=("Add",),
        concat=("Concat",),
        unary=("GlobalAveragePool", "AveragePool"),
        same_scale=_MOVES_DATA,
    ),
    every_reader=False,
    skip_branch_only=True,
    one_scale_concat=True,
    min_channels=16,
    per_tensor_weights=frozenset({"ConvTranspose"}),  # builders disagree on the axis
)

TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in (TENSORRT, ORT_CPU)})
