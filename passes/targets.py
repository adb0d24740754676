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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal["weighted", "elementwise", "concat", "unary", "same-scale"]

_MOVES_DATA: tuple[str, ...] = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split",
)  # fmt: skip


_NOT_SINCE_22 = (  # of ONNX Runtime 1.31 on the CPU
    "Bernoulli", "GlobalLpPool", "MaxRoiPool", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "RoiAlign",
)  # fmt: skip


def _rules(**kinds: tuple[str, ...]) -> Mapping[str, Kind]:
    return MappingProxyType({op: kind.replace("_", "-") for kind, ops in kinds.items() for op in ops})  # type: ignore[misc]


_INTEGER_OPERATORS: frozenset[str] = frozenset({
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
})  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """What a runtime makes of Q/DQ as it finds them in a file; passes/lint compares models with it.

    code_types: what QuantizeLinear may write and DequantizeLinear read.
    domains: of operators that it knows beside ONNX's own.
    fails: operators on integers, such as QLinearConv, that it refuses or gets wrong.
    elsewhere: operators on integers that it leaves to another processor, with copies in between.
    misfit: whether Q/DQ that no kernel fits are refused, misread (fused as something else: wrong numbers, or a failure
        when the model runs), or computed as they are written, in float.
    assumed_type, assumed_axis: what it takes for granted where the file does not say; the standard's are uint8 and 1.
    symmetric_weights: a layer whose weights have a zero-point other than 0 stays in float.
    kernels: operators that run in integers though no rule of the target uses them.
    climbs: operators through which a quantizer is moved up to the layer before them.
    """

    code_types: frozenset[str] = frozenset({
        "int8", "uint8", "int16", "uint16", "int32", "int4", "uint4", "int2", "uint2",
        "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz",
    })  # fmt: skip
    domains: frozenset[str] = frozenset({"ai.onnx.ml", "com.microsoft"})
    fails: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()
    misfit: Literal["refused", "misread", "computed"] = "misread"
    assumed_type: str = "uint8"
    assumed_axis: int = 1
    symmetric_weights: bool = False
    kernels: frozenset[str] = frozenset()
    climbs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Target:
    """What one runtime wants.

    activation: integer type of activations, and ``symmetric``: whether their zero-point must be 0.
    activation_bits: the widths of that type that it has kernels for; what has fewer than 8 bits rides in 8.
    rules: kind by operator; what is not in it stays in float.
    output_required: layers and sums that have an integer kernel only if their output is quantized too.
    absorbs: activations that vanish into the quantization of their output.
    every_reader: whether all readers of a quantized tensor read it quantized; else only those that gain by it.
    skip_branch_only: of an Add, quantize only the input that does not come from a layer, so that the Add can
        become the epilogue of the layer at the other input.
    one_scale_concat: inputs and output of a Concat share one scale.
    int32_bias: the runtime rounds float biases to int32 at (input scale * weight scale) ...
    int32_bias_written: ... but not of these operators: their kernel needs the bias in int32 in the file.
    min_channels: a convolution with fewer input or output channels than this stays in float.
    early: quantize as far before a layer as operators of the table carry integers, so that these run on integers too;
        other runtimes move a quantizer up themselves, or have it there already, as their layers write integers.
    only_with: (operator, attribute, value): a rule that holds only with this value, or without the attribute.
    concat_copies: a Concat copies inputs that have the scale of its result, and computes the others again.
    per_tensor_weights: operators whose weights get one scale.
    everything: an activation is quantized wherever an operator of the table touches it, not only where integers gain.
    weights_only: activations stay in float, weights are stored in integers.
    weight_bits: the most bits a weight may use; 7 where the products of two 8-bit numbers saturate in 16 bits.
    packed_from: (bits, opset): weights of up to so many bits are stored packed, in models of that opset or newer.
    opsets: the oldest and the newest opset that the runtime reads with Q/DQ in it.
    float_types: in what the rest of the model may be written.
    kernels_shown: whether ONNX Runtime's CPU provider, on an x86 machine, is what will run the model.
    advice: what someone who chooses this target should know.
    newest_opset: operators that it lacks in models of a newer opset than this.
    reader: what it makes of Q/DQ in a file, whoever wrote them.
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
    concat_copies: bool = False
    per_tensor_weights: frozenset[str] = frozenset()
    everything: bool = False
    weights_only: bool = False
    activation_bits: tuple[int, ...] = (8,)
    weight_bits: int = 8
    packed_from: tuple[tuple[int, int], ...] = ()
    early: bool = False
    only_with: tuple[tuple[str, str, str], ...] = ()
    opsets: tuple[int, int] = (13, 25)
    float_types: tuple[str, ...] = ("float32",)
    kernels_shown: bool = False
    advice: str = ""
    newest_opset: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    reader: Reader = Reader()

    def kind(self, op: str, attribute: Callable[[str, Any], Any]) -> Kind | None:
        """How an operator is treated; None where it stays in float. attribute: of the node, by name and default."""
        for each, name, wanted in self.only_with:
            if each == op and attribute(name, wanted) not in (wanted, wanted.encode()):
                return None
        return self.rules.get(op)


ORT_CPU = Target(
    name="ort-cpu",
    runtime="ONNX Runtime, CPU provider, x86 with VNNI",
    activation="uint8",  # int8 activations are fused in rare cases only on x86
    symmetric=False,
    rules=_rules(
        weighted=("Conv", "Gemm", "MatMul"),  # there is no integer kernel for ConvTranspose
        elementwise=("Add", "Mul"),
        concat=("Concat",),
        # not Softmax: where its outputs are nearly alike, and fill their range, its kernel overflows (1.31.1)
        unary=("GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu"),
        same_scale=(*_MOVES_DATA, "Resize", "DepthToSpace"),
    ),
    output_required=frozenset({"Conv", "Add", "Mul"}),
    int32_bias=True,
    int32_bias_written=frozenset({"Gemm"}),
    concat_copies=True,
    only_with=(("Resize", "mode", "nearest"),),
    packed_from=((2, 25), (4, 21)),
    opsets=(13, 26),
    newest_opset=MappingProxyType(dict.fromkeys(_NOT_SINCE_22, 21)),
    kernels_shown=True,
    reader=Reader(
        kernels=frozenset({"Softmax", "Expand", "Tile", "ReduceMax", "ReduceMin"}),
        climbs=frozenset({"MaxPool", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Identity"}),
    ),
)

ORT_CPU_AVX2 = replace(
    ORT_CPU,
    name="ort-cpu-avx2",
    runtime="ONNX Runtime, CPU provider, x86 without VNNI",
    weight_bits=7,
    advice="weights use 7 bits, for these processors add two products in 16 bits, which 8 would overflow",
)

ORT_ARM = replace(
    ORT_CPU,
    name="ort-arm",
    runtime="ONNX Runtime, CPU provider, ARM64",
    activation="int8",
    kernels_shown=False,
    advice="int8 activations, whose kernels are the fast ones on ARM; on x86 the same file is slow",
)

ORT_CUDA = Target(
    name="ort-cuda",
    runtime="ONNX Runtime, CUDA provider",
    activation="int8",
    symmetric=True,
    rules=_rules(weighted=("Conv", "ConvTranspose", "Gemm", "MatMul")),
    weights_only=True,
    per_tensor_weights=frozenset({"ConvTranspose"}),
    advice="smaller files, no faster: CUDA has no integer kernels for these layers; for speed take tensorrt",
    reader=Reader(elsewhere=_INTEGER_OPERATORS, misfit="computed"),
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
    float_types=("float32", "float16"),
    advice="what stays in float runs in the type that is written: float16 is the faster one",
    reader=Reader(
        code_types=frozenset({"int8", "int4", "float8e4m3fn", "float4e2m1"}),
        domains=frozenset({"trt", "trt.plugins", "TRT"}),
        fails=_INTEGER_OPERATORS,
        misfit="refused",
        assumed_type="int8",
        assumed_axis=0,
    ),
)

OPENVINO = Target(
    name="openvino",
    runtime="OpenVINO, CPU",
    activation="uint8",
    symmetric=False,
    rules=_rules(
        weighted=("Conv", "ConvTranspose", "Gemm", "MatMul"),
        elementwise=("Add",),  # a Mul is part of an activation that ends a layer, or of one that scales channels
        concat=("Concat",),
        unary=("GlobalAveragePool", "AveragePool"),
        same_scale=(*_MOVES_DATA, "Pad", "Resize", "DepthToSpace"),
    ),
    skip_branch_only=True,
    one_scale_concat=True,
    early=True,
    only_with=(("Resize", "mode", "nearest"),),
    packed_from=((4, 21),),  # it reads no 2-bit integers
    reader=Reader(
        code_types=frozenset({"int8", "uint8", "int16", "uint16", "int32", "int4", "uint4"}),
        fails=frozenset({"QLinearConv", "QLinearMatMul"}),  # where weights have a scale for each channel (2026.4)
        misfit="computed",
        symmetric_weights=True,
    ),
)

QNN = Target(
    name="qnn",
    runtime="ONNX Runtime, QNN provider (Hexagon)",
    activation="uint8",
    symmetric=False,
    rules=_rules(
        weighted=("Conv", "ConvTranspose", "Gemm", "MatMul"),
        elementwise=("Add", "Sub", "Mul", "Div"),
        concat=("Concat",),
        unary=(
            *("GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu", "Softmax", "Tanh", "Elu", "HardSwish"),
            *("HardSigmoid", "Gelu", "LayerNormalization", "InstanceNormalization", "ReduceMean"),
        ),
        same_scale=(*_MOVES_DATA, "Pad", "Resize", "DepthToSpace", "SpaceToDepth"),
    ),
    everything=True,
    activation_bits=(8, 16),
    int32_bias_written=frozenset({"Conv", "ConvTranspose", "Gemm", "LayerNormalization", "InstanceNormalization"}),
    per_tensor_weights=frozenset({"ConvTranspose"}),
    advice="every tensor is quantized, as the processor has no float units; not run by us on a device",
    reader=Reader(
        code_types=frozenset({"int8", "uint8", "int16", "uint16", "int32", "int4"}),
        elsewhere=_INTEGER_OPERATORS,
        symmetric_weights=True,
    ),
)

TARGETS: Mapping[str, Target] = MappingProxyType(
    {target.name: target for target in (TENSORRT, ORT_CPU, ORT_CPU_AVX2, ORT_ARM, ORT_CUDA, OPENVINO, QNN)}
)
