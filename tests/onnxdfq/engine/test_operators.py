"""Every operator family against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

random = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(f(*shape)) + np.float32(0.1)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def scalar(value: Any) -> np.ndarray:
    return np.array(value, np.float32 if isinstance(value, float) else np.int64)


def case(op: str, *inputs: np.ndarray | None, opset: int, **options: Any) -> Any:
    shown = ",".join(f"{name}={value}" for name, value in options.items())
    return pytest.param(op, inputs, {"opset": opset, **options}, id=f"{op}-{opset}-{shown}".replace(" ", ""))


CONVOLUTION = [
    case("Conv", f(2, 4, 9), f(6, 4, 3), f(6), opset=11, pads=[1, 1]),
    case("Conv", f(2, 4, 9, 8), f(6, 2, 3, 3), f(6), opset=11, group=2, dilations=[2, 1], strides=[1, 2]),
    case("Conv", f(2, 4, 9, 8), f(6, 4, 3, 2), opset=11, pads=[0, 1, 2, 3], kernel_shape=[3, 2]),
    case("Conv", f(1, 2, 5, 6, 4), f(3, 2, 2, 3, 2), f(3), opset=11, auto_pad="SAME_UPPER"),
    case("Conv", f(1, 2, 8, 7), f(3, 2, 4, 3), opset=11, auto_pad="SAME_UPPER", strides=[3, 2]),
    case("Conv", f(1, 2, 8, 7), f(3, 2, 4, 3), opset=11, auto_pad="SAME_LOWER", strides=[1, 2]),
    case("Conv", f(1, 2, 8, 7), f(3, 2, 4, 3), opset=11, auto_pad="VALID"),
    case("ConvTranspose", f(2, 4, 9), f(4, 3, 3), f(3), opset=11, strides=[2]),
    case(
        "ConvTranspose",
        f(2, 4, 5, 6),
        f(4, 3, 3, 3),
        f(6),
        opset=11,
        group=2,
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    ),
    case("ConvTranspose", f(1, 2, 5, 6), f(2, 3, 3, 3), opset=11, strides=[2, 3], output_padding=[1, 2]),
    case("ConvTranspose", f(1, 2, 5, 6), f(2, 3, 3, 4), opset=11, strides=[2, 2], pads=[0, 1, 2, 1]),
    case("ConvTranspose", f(1, 2, 5, 6), f(2, 3, 3, 4), opset=11, strides=[2, 2], dilations=[2, 1]),
    case("ConvTranspose", f(1, 2, 5, 6), f(2, 3, 3, 4), opset=11, strides=[2, 2], output_shape=[10, 11]),
    case("ConvTranspose", f(1, 2, 5, 6), f(2, 3, 3, 4), opset=11, strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", f(1, 2, 5, 6), f(2, 3, 3, 4), opset=11, strides=[2, 2], auto_pad="SAME_LOWER"),
    case("ConvTranspose", f(1, 2, 5, 6), f(2, 3, 3, 4), opset=11, strides=[2, 2], auto_pad="VALID"),
    case(
        "ConvTranspose",
        f(1, 2, 3, 4, 5),
        f(2, 3, 2, 3, 2),
        opset=11,
        strides=[2, 1, 2],
        pads=[0, 1, 0, 0, 1, 0],
    ),
]

POOLING = [
    case("MaxPool", f(1, 2, 9), opset=12, kernel_shape=[3], strides=[2]),
    case("MaxPool", f(1, 2, 9, 8), opset=12, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case(
        "MaxPool",
        f(1, 2, 9, 8),
        opset=12,
        kernel_shape=[3, 2],
        pads=[1, 1, 1, 1],
        strides=[2, 2],
        ceil_mode=1,
    ),
    case("MaxPool", f(1, 2, 9, 8), opset=12, kernel_shape=[3, 2], pads=[0, 0, 1, 1], strides=[2, 2]),
    case(
        "MaxPool",
        f(1, 2, 9, 8),
        opset=12,
        kernel_shape=[2, 2],
        pads=[0, 0, 1, 1],
        strides=[3, 3],
        ceil_mode=1,
    ),
    case("MaxPool", f(1, 2, 9, 8), opset=12, kernel_shape=[3, 2], dilations=[2, 3]),
    case("MaxPool", f(1, 2, 9, 8), opset=12, kernel_shape=[3, 3], auto_pad="SAME_LOWER", strides=[2, 2]),
    case("MaxPool", f(2, 2, 9, 8), opset=12, kernel_shape=[3, 2], pads=[1, 0, 0, 1], outputs=2),
    case("MaxPool", f(2, 2, 9, 8), opset=12, kernel_shape=[3, 2], storage_order=1, outputs=2),
    case("MaxPool", f(1, 2, 5, 6, 7), opset=12, kernel_shape=[2, 3, 2]),
    case("AveragePool", f(1, 2, 9), opset=11, kernel_shape=[3], strides=[2], pads=[1, 1]),
    case("AveragePool", f(1, 2, 9, 8), opset=11, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", f(1, 2, 9, 8), opset=11, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("AveragePool", f(1, 2, 9, 8), opset=19, kernel_shape=[3, 3], pads=[0, 0, 2, 1], count_include_pad=1),
    case("AveragePool", f(1, 2, 9, 8), opset=11, kernel_shape=[3, 3], pads=[0, 0, 2, 1]),
    case("AveragePool", f(1, 2, 9, 8), opset=11, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("AveragePool", f(1, 2, 9, 8), opset=19, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", f(1, 2, 5, 6, 7), opset=11, kernel_shape=[2, 3, 2]),
    case("GlobalAveragePool", f(2, 3, 4, 5), opset=11),
    case("GlobalMaxPool", f(2, 3, 4, 5), opset=11),
]

NORMALIZATION = [
    case("BatchNormalization", f(2, 3, 4, 5), f(3), f(3), f(3), positive(3), opset=9, epsilon=1e-3),
    case("BatchNormalization", f(2, 3), f(3), f(3), f(3), positive(3), opset=15),
    case("InstanceNormalization", f(2, 3, 4, 5), f(3), f(3), opset=9),
    case("LayerNormalization", f(2, 3, 4), f(4), f(4), opset=17, epsilon=1e-3),
    case("LayerNormalization", f(2, 3, 4), f(3, 4), opset=17, axis=1),
    case("LayerNormalization", f(2, 3, 4), f(4), f(4), opset=17, axis=1, outputs=3),
    case("GroupNormalization", f(2, 4, 5, 3), f(2), f(2), opset=18, num_groups=2),
    case("GroupNormalization", f(2, 4, 5, 3), f(4), f(4), opset=21, num_groups=2),
    case("RMSNormalization", f(2, 3, 4), f(4), opset=23),
    case("LpNormalization", f(2, 3, 4), opset=11, p=2, axis=1),
    case("LpNormalization", f(2, 3, 4), opset=11, p=1),
    case("MeanVarianceNormalization", f(2, 3, 4, 5), opset=13),
    case("LRN", f(2, 7, 4, 5), opset=13, size=3, alpha=0.1, bias=2.0),
    case("LRN", f(2, 7, 4, 5), opset=13, size=5, beta=0.5),
]

ACTIVATION = [
    *(case(op, 3 * f(3, 5), opset=13) for op in ("Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh", "Elu")),
    *(case(op, 3 * f(3, 5), opset=22) for op in ("HardSwish", "Selu", "Celu", "Softplus", "Softsign", "Mish")),
    case("LeakyRelu", f(3, 5), opset=13, alpha=0.3),
    case("Elu", f(3, 5), opset=13, alpha=0.3),
    case("ThresholdedRelu", f(3, 5), opset=13, alpha=0.5),
    case("PRelu", f(2, 3, 4), f(3, 1), opset=13),
    case("Gelu", f(3, 5), opset=20),
    case("Gelu", f(3, 5), opset=20, approximate="tanh"),
    case("Clip", f(3, 5), opset=9, min=-0.5, max=0.5),
    case("Clip", f(3, 5), scalar(-0.5), scalar(0.5), opset=13),
    case("Clip", f(3, 5), None, scalar(0.5), opset=13),
    case("Clip", i64(1, 5, 9), scalar(2), scalar(6), opset=13),
    *(case(op, f(2, 3, 4), opset=9) for op in ("Softmax", "LogSoftmax")),
    *(case(op, f(2, 3, 4), opset=9, axis=2) for op in ("Softmax", "LogSoftmax")),
    *(case(op, f(2, 3, 4), opset=13, axis=1) for op in ("Softmax", "LogSoftmax")),
]

UNIT = ("Acos", "Asin", "Atanh")
POSITIVE = ("Sqrt", "Log", "Reciprocal")
REAL = (
    "Abs",
    "Asinh",
    "Atan",
    "Ceil",
    "Cos",
    "Cosh",
    "Erf",
    "Exp",
    "Floor",
    "Neg",
    "Round",
    "Sign",
    "Sin",
    "Sinh",
    "Tan",
)
ELEMENTWISE = [
    *(case(op, np.tanh(f(3, 4)), opset=13) for op in UNIT),
    *(case(op, positive(3, 4), opset=13) for op in POSITIVE),
    *(case(op, f(3, 4), opset=13) for op in REAL),
    case("Acosh", 1 + positive(3, 4), opset=13),
    case("Round", f32(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5), opset=13),
    case("IsNaN", f32(1, np.nan), opset=13),
    *(case(op, f(3, 1, 4), f(2, 1), opset=13) for op in ("Add", "Sub", "Mul", "Div")),
    case("Div", i64(-7, 7, -6), i64(2, -2, 4), opset=13),
    case("Mod", i64(-7, 7, -6), i64(2, -2, 4), opset=13),
    case("Mod", f(3, 4), positive(4), opset=13, fmod=1),
    case("Pow", positive(3, 4), scalar(3.0), opset=13),
    case("Pow", positive(3, 4), f(4), opset=13),
    case("Pow", i64(2, 3), scalar(2), opset=13),
    *(case(op, f(3, 4), f(4), f(3, 1), opset=13) for op in ("Min", "Max", "Sum", "Mean")),
    *(case(op, i64(1, 2, 3), i64(2, 2, 2), opset=13) for op in ("Equal", "Greater", "Less")),
    *(case(op, f(3, 4), f(4), opset=16) for op in ("GreaterOrEqual", "LessOrEqual")),
    *(case(op, np.array([True, False]), np.array([[True], [False]]), opset=13) for op in ("And", "Or", "Xor")),
    case("Not", np.array([True, False]), opset=13),
    case("Where", np.array([True, False]), f(3, 2), f(2), opset=13),
    case("Cast", 3 * f(3, 4), opset=13, to=onnx.TensorProto.INT32),
    case("Cast", i64(0, 1, 2), opset=13, to=onnx.TensorProto.BOOL),
    case("CastLike", i64(0, 1, 2), f(1), opset=19),
    case("Identity", f(3), opset=13),
    case("Dropout", f(3), opset=10, ratio=0.3),
    case("Dropout", f(3, 2), scalar(0.3), opset=13, outputs=2),
    case("MatMul", f(2, 1, 3, 4), f(5, 4, 2), opset=13),
    case("MatMul", f(3, 4), f(4), opset=13),
    case("Gemm", f(3, 4), f(5, 4), f(5), opset=13, transB=1),
    case("Gemm", f(4, 3), f(4, 5), f(3, 1), opset=13, transA=1, alpha=0.5, beta=2.0),
    case("Gemm", f(3, 4), f(4, 5), opset=13),
    case("Einsum", f(2, 3, 4), f(2, 4, 5), opset=13, equation="bij,bjk->bik"),
]

REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
REDUCTION = [
    *(case(f"Reduce{op}", positive(2, 3, 4), opset=11, axes=[0, -1], keepdims=0) for op in REDUCTIONS),
    *(case(f"Reduce{op}", positive(2, 3, 4), opset=11) for op in REDUCTIONS),
    *(case(f"Reduce{op}", positive(2, 3, 4), i64(1, -1), opset=18) for op in REDUCTIONS),
    case("ReduceSum", f(2, 3), i64(0), opset=13, keepdims=0),
    case("ReduceSum", f(2, 3), opset=13, noop_with_empty_axes=1),
    case("ReduceMax", i64(1, 3, 2), opset=11),
    *(case(op, f(2, 3, 4), opset=13, axis=-1, keepdims=0) for op in ("ArgMax", "ArgMin")),
    *(case(op, f32(1, 2, 2, 1), opset=13, select_last_index=1) for op in ("ArgMax", "ArgMin")),
    case("TopK", f(3, 5), i64(2), opset=11, outputs=2),
    case("TopK", f32(1, 3, 2, 3, 1), i64(3), opset=11, outputs=2, largest=0, axis=0),
    case("CumSum", f(3, 4), scalar(1), opset=14, exclusive=1, reverse=1),
    case("CumSum", f(3, 4), scalar(-1), opset=14),
]

SHAPE = [
    case("Reshape", f(2, 3, 4), i64(0, -1), opset=13),
    case("Reshape", f(0, 3), i64(3, 0), opset=14, allowzero=1),
    case("Flatten", f(2, 3, 4), opset=13, axis=-1),
    case("Flatten", f(2, 3, 4), opset=13, axis=0),
    case("Transpose", f(2, 3, 4), opset=13),
    case("Transpose", f(2, 3, 4), opset=13, perm=[1, 2, 0]),
    case("Squeeze", f(1, 3, 1), opset=11),
    case("Squeeze", f(1, 3, 1), opset=11, axes=[0]),
    case("Squeeze", f(1, 3, 1), i64(-1), opset=13),
    case("Unsqueeze", f(3, 4), opset=11, axes=[0, 3]),
    case("Unsqueeze", f(3, 4), i64(-1, 0), opset=13),
    case("Concat", f(2, 3), f(2, 4), f(2, 1), opset=13, axis=-1),
    case("Split", f(6, 2), opset=11, outputs=3),
    case("Split", f(2, 6), opset=11, outputs=2, axis=1, split=[1, 5]),
    case("Split", f(2, 6), i64(1, 2, 3), opset=13, outputs=3, axis=-1),
    case("Split", f(7, 2), opset=18, outputs=3, num_outputs=3),
    case("Slice", f(5, 6), opset=9, starts=[1, -3], ends=[2**62, -1], axes=[0, 1]),
    case("Slice", f(5, 6), i64(-1, 4), i64(-(2**62), 1), i64(0, -1), i64(-1, -2), opset=13),
    case("Slice", f(5, 6), i64(0, 1), i64(2**62, 100), None, i64(3, 2), opset=13),
    case("Slice", f(5, 6), i64(4), i64(2), opset=13),
    case("Expand", f(3, 1), i64(2, 1, 4), opset=13),
    case("Tile", f(2, 3), i64(2, 2), opset=13),
    case("Pad", f(2, 3), opset=10, pads=[0, 1, 1, 2], value=1.5),
    case("Pad", f(2, 3), i64(0, 1, 1, 2), scalar(1.5), opset=13),
    case("Pad", f(4, 5), i64(-1, 1, 0, -2), opset=13),
    case("Pad", f(2, 3, 4), i64(1, 2), scalar(0.5), i64(-1), opset=18),
    case("Pad", f(2, 3, 4, 5), i64(0, 0, 2, 1, 0, 0, 1, 3), opset=13, mode="reflect"),
    case("Pad", f(2, 3, 4, 5), i64(1, 0, 2, 1, 0, 2, 1, 3), opset=13, mode="edge"),
    case("Pad", f(2, 3, 4, 5), i64(0, 0, 2, 1, 0, 0, 1, 3), opset=19, mode="wrap"),
    case("DepthToSpace", f(2, 8, 3, 4), opset=13, blocksize=2),
    case("DepthToSpace", f(2, 8, 3, 4), opset=13, blocksize=2, mode="CRD"),
    case("SpaceToDepth", f(2, 3, 4, 6), opset=13, blocksize=2),
    case("Gather", f(3, 4), i64(0, -1, 1), opset=13, axis=1),
    case("Gather", f(3, 4), scalar(-2), opset=13),
    case("Gather", f(3, 4), np.array([[0, 1], [2, 0]], np.int32), opset=13, axis=-2),
    case("GatherElements", f(3, 4), np.array([[0, -1], [2, 1]]), opset=13, axis=0),
    case("GatherND", f(3, 4, 2), np.array([[0, -1], [2, 1]]), opset=13),
    case("ScatterElements", f(3, 4), np.array([[0, -1]]), f(1, 2), opset=13, axis=1),
    case("ScatterND", f(3, 4), np.array([[0], [-1]]), f(2, 4), opset=13),
    case("NonZero", i64(0, 2, 0, 3), opset=13),
    case("Trilu", f(3, 4), scalar(1), opset=14),
    case("Trilu", f(3, 4), opset=14, upper=0),
    case("Shape", f(2, 3, 4), opset=13),
    case("Shape", f(2, 3, 4), opset=15, start=-2, end=-1),
    case("Size", f(2, 3, 4), opset=13),
    case("ConstantOfShape", i64(2, 3), opset=9),
    case(
        "ConstantOfShape",
        i64(2),
        opset=9,
        value=onnx.helper.make_tensor("v", onnx.TensorProto.INT64, [1], [7]),
    ),
    case("Range", scalar(7), scalar(1), scalar(-2), opset=11),
    case("Range", scalar(0.0), scalar(2.0), scalar(0.5), opset=11),
]

MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
NCHW = f(1, 2, 5, 6)
RESIZE = [
    case("Upsample", f(1, 2, 3, 4), opset=7, scales=[1.0, 1.0, 2.0, 3.0]),
    case("Upsample", f(1, 2, 3, 4), f32(1, 1, 2, 1.5), opset=9, mode="linear"),
    case("Resize", f(1, 2, 3, 4), f32(1, 1, 0.6, 2), opset=10),
    *(case("Resize", NCHW, None, f32(1, 1, 2, 1.7), opset=19, coordinate_transformation_mode=m) for m in MODES),
    *(
        case("Resize", NCHW, None, None, i64(1, 2, 8, 4), opset=19, mode=mode, coordinate_transformation_mode=m)
        for mode in ("linear", "cubic")
        for m in MODES
    ),
    *(
        case(
            "Resize",
            NCHW,
            f32(),
            f32(),
            i64(1, 2, 7, 4),
            opset=11,
            nearest_mode=r,
            coordinate_transformation_mode=m,
        )
        for r in ROUNDINGS
        for m in ("asymmetric", "half_pixel", "tf_half_pixel_for_nn")
    ),
    case("Resize", NCHW, None, f32(1, 1, 2, 2), opset=13, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    case("Resize", NCHW, None, None, i64(10, 9), opset=18, axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    case("Resize", NCHW, None, None, i64(10, 9), opset=18, axes=[2, 3], keep_aspect_ratio_policy="not_smaller"),
]

ALL = CONVOLUTION + POOLING + NORMALIZATION + ACTIVATION + ELEMENTWISE + REDUCTION + SHAPE + RESIZE


@pytest.mark.parametrize(("op", "inputs", "options"), ALL)
def test_node_agrees_with_onnxruntime(node_agrees: Any, op: str, inputs: Any, options: dict[str, Any]) -> None:
    node_agrees(op, *inputs, **options)
