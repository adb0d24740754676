"""Nodes of every operator that has a gradient, in each of its modes. An operator that is added gets a line here."""

from __future__ import annotations

import numpy as np
import onnx

from tests.onnxdfq.engine.gradient_cases_spatial import SPATIAL
from tests.onnxdfq.engine.gradient_nodes import case, r, within


def branch(body: str) -> onnx.GraphProto:
    """One of an If, which sees the inputs of the case by name."""
    return onnx.parser.parse_graph(f"branch () => (double[2, 3] out) {{ {body} }}")


DOMAINS = {"Acos-22": (-0.9, 0.9), "Acosh-22": (1.2, 3), "Asin-22": (-0.9, 0.9), "Atanh-22": (-0.9, 0.9)}
DOMAINS |= {"Log-13": (0.3, 3), "Reciprocal-13": (0.3, 3), "Sqrt-13": (0.3, 3), "Tan-22": (-1.2, 1.2)}
POINTWISE = "Abs-13 Acos-22 Acosh-22 Asin-22 Asinh-22 Atan-22 Atanh-22 Cos-22 Cosh-22 Erf-13 Exp-13 Identity-25 Log-13"
POINTWISE += " Mish-22 Neg-13 Reciprocal-13 Relu-14 Sigmoid-13 Sin-22 Sinh-22 Softplus-22 Softsign-22 Sqrt-13 Tan-22"
POINTWISE += " Tanh-13 Gelu-20 LeakyRelu-16 ThresholdedRelu-22 HardSigmoid-22 HardSwish-22 Swish-24 Elu-22 Celu-12"
POINTWISE += " Selu-22 Shrink-9 com.microsoft::Gelu-1"

ELEMENTWISE = [
    *(case(op, within(*DOMAINS.get(op, (-4, 4)), 2, 3)) for op in POINTWISE.split()),
    case("Gelu-20", r(2, 3), approximate="tanh"),
    case("LeakyRelu-16", r(2, 3), alpha=0.3),
    case("ThresholdedRelu-22", r(2, 3), alpha=0.3),
    case("HardSigmoid-22", r(2, 3), alpha=0.6, beta=0.3),
    case("Swish-24", r(2, 3), alpha=1.7),
    case("Elu-22", r(2, 3), alpha=1.7),
    case("Celu-12", r(2, 3), alpha=1.7),
    case("Selu-22", r(2, 3), alpha=1.2, gamma=0.8),
    case("Shrink-9", r(2, 3), bias=0.3, lambd=0.4),
    case("SwiGLU-28", r(2, 3), r(2, 3), alpha=1.3),
    case("PRelu-16", r(2, 3, 2), r(3, 1)),
    case("Clip-6", r(2, 3), min=-0.7, max=0.9),
    case("Clip-13", r(2, 3), within(-1, -0.5), within(0.5, 1)),
    case("Clip-13", r(2, 3), within(-1, -0.5)),
    case("Clip-13", r(2, 3), None, within(0.5, 1)),
    *(case(op, r(2, 3, 2), r(3, 1)) for op in ("Add-14", "Sub-14", "Mul-14")),
    case("Div-14", r(2, 3, 2), within(0.4, 2, 3, 1)),
    case("Mod-13", r(2, 3), within(0.4, 0.9, 3), fmod=1),
    case("Pow-15", within(0.3, 2, 2, 3), r(3)),
    case("Pow-15", r(2, 3), 2.0),
    case("Pow-7", r(2, 3), [2, 3, 1]),
    *(case(op, r(2, 3), r(3), r(2, 1)) for op in ("Min-13", "Max-13", "Sum-13", "Mean-13")),
    case("Max-8", r(2, 3)),
    case("Where-16", [[True], [False]], r(2, 3), r(3)),
    case("Cast-25", r(2, 3), to=onnx.TensorProto.DOUBLE),
    case("CastLike-25", r(2, 3), [1.0]),
    case("Dropout-7", r(2, 3), ratio=0.3),
    case("Dropout-13", r(2, 3), np.float32(0.3), outputs=2),
    *(case(op, r(2, 3, 2)) for op in ("Softmax-11", "LogSoftmax-11", "Softmax-13", "LogSoftmax-13")),
    *(case(op, r(2, 3, 2), axis=2) for op in ("Softmax-1", "LogSoftmax-1")),
    *(case(op, r(2, 3, 2), axis=0) for op in ("Softmax-11", "LogSoftmax-11", "Softmax-13", "LogSoftmax-13")),
]

SHAPE = [
    case("Reshape-13", r(2, 3, 2), [0, -1]),
    case("Reshape-25", r(2, 3, 2), [4, 3], allowzero=1),
    case("Flatten-25", r(2, 3, 2)),
    case("Flatten-13", r(2, 3, 2), axis=-1),
    case("Transpose-25", r(2, 3, 2)),
    case("Transpose-13", r(2, 3, 1), perm=[1, 2, 0]),
    case("Squeeze-1", r(1, 3, 1), axes=[0]),
    case("Squeeze-11", r(1, 3, 1)),
    case("Squeeze-13", r(1, 3, 1), [-1]),
    case("Squeeze-25", r(1, 3, 1)),
    case("Unsqueeze-11", r(2, 3), axes=[0, 3]),
    case("Unsqueeze-25", r(2, 3), [-1, 1]),
    case("Concat-13", r(2, 1), r(2, 3), r(2, 2), axis=-1),
    case("Split-2", r(2, 4), axis=1, outputs=2),
    case("Split-11", r(2, 4), axis=1, split=[1, 3], outputs=2),
    case("Split-13", r(2, 4), [3, 1], axis=-1, outputs=2),
    case("Split-18", r(5, 2), num_outputs=2, outputs=2),
    case("Slice-1", r(4, 3), starts=[1, -2], ends=[1000, -1]),
    case("Slice-9", r(4, 3), starts=[-3], ends=[-1], axes=[0]),
    case("Slice-13", r(4, 3), [-1], [-100], [0], [-2]),
    case("Slice-10", r(4, 5), [1, 0], [4, 5], [-1, 0], [2, 3]),
    case("Expand-13", r(3, 1), [2, 1, 4]),
    case("Tile-13", r(2, 3), [2, 3]),
    *(case("Pad-2", r(2, 3), pads=[1, 2, 0, 1], mode=mode) for mode in ("constant", "reflect", "edge")),
    *(case("Pad-25", r(2, 3), [1, 2, 0, 1], mode=mode) for mode in ("constant", "reflect", "edge", "wrap")),
    case("Pad-13", r(2, 3), [1, -1, 0, 2], 0.5),
    case("Pad-18", r(2, 4), [-1, 2], None, [-1], mode="reflect"),
    case("CenterCropPad-18", r(4, 2), [1, 5]),
    case("CenterCropPad-18", r(2, 3, 1), [2], axes=[1]),
    *(case("DepthToSpace-13", r(1, 8, 1, 2), blocksize=2, mode=mode) for mode in ("DCR", "CRD")),
    case("DepthToSpace-1", r(1, 4, 2, 1), blocksize=2),
    case("SpaceToDepth-13", r(1, 2, 2, 4), blocksize=2),
]

INDEX = [
    case("Gather-13", r(3, 2), [[0, -1], [2, 2]]),
    case("Gather-13", r(2, 3), 1, axis=1),
    case("GatherElements-13", r(3, 2), [[0, -1, 0], [1, 1, 0]], axis=1),
    case("GatherND-13", r(2, 3, 2), [[0, 1], [1, -1], [0, 1]]),
    case("GatherND-13", r(2, 3, 2), [[[1], [1]], [[2], [0]]], batch_dims=1),
    case("Scatter-9", r(3, 2), [[2, 0]], r(1, 2)),
    case("ScatterElements-11", r(3, 3), [[0, -1]], r(1, 2), axis=1),
    case("ScatterElements-18", r(3, 2), [[2, 0], [-2, 1]], r(2, 2)),
    case("ScatterND-18", r(4, 2), [[1], [-1]], r(2, 2)),
    *(
        made
        for reduction in ("add", "mul", "max", "min")
        for made in (
            case("ScatterElements-18", r(3, 2), [[2, 0], [2, 1], [-1, 1]], r(3, 2), reduction=reduction),
            case("ScatterND-18", r(3, 2, 2), [[1, 0], [-1, 1], [1, 0]], r(3, 2), reduction=reduction),
        )
    ),
    case("TensorScatter-24", r(2, 4, 2), r(2, 2, 2), [1, 2]),
    case("TensorScatter-24", r(2, 3, 4, 1), r(2, 3, 2, 1), [3, 2], mode="circular"),
    case("TensorScatter-24", r(2, 3), r(2, 2), axis=1),
    case("OneHot-11", [[0, 2], [-1, 7]], 3, r(2), axis=1),
    case("Compress-11", r(3, 2), [True, False, True], axis=0),
    case("Compress-11", r(3, 2), [False, True, True, True]),
    case("Unique-11", r(2, 3)),
    case("Unique-11", r(2, 3), axis=1, sorted=0, outputs=4),
    case("ReverseSequence-10", r(4, 2), [3, 2]),
    case("ReverseSequence-10", r(2, 3, 2), [1, 3], batch_axis=0, time_axis=1),
    case("Trilu-14", r(3, 3)),
    case("Trilu-14", r(2, 3, 3), -1, upper=0),
]

REDUCE = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
REDUCTION = [
    *(
        case(f"Reduce{op}-{opset}", within(0.3 if op == "LogSum" else -2, 2, 2, 3, 2), *axes, **options)
        for op in REDUCE
        for opset, axes, options in (
            (1, (), {"axes": [1]}),
            (11, (), {"axes": [-1, 0], "keepdims": 0}),
            (11, (), {}),
            (20, ([1, -1],), {"keepdims": 0}),
            (20, (), {}),
            (20, (), {"noop_with_empty_axes": 1}),
        )
    ),
    case("TopK-11", r(2, 4), [2], outputs=2),
    case("TopK-24", r(4, 2), [3], axis=0, largest=0),
    *(
        case(op, r(2, 3), axis, exclusive=exclusive, reverse=reverse)
        for op, axis in (("CumSum-14", 1), ("CumProd-26", 0))
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
]

LINEAR = [
    case("MatMul-13", r(2, 3), r(3, 2)),
    case("MatMul-13", r(2, 1, 2, 3), r(2, 3, 2)),
    case("MatMul-13", r(3), r(2, 3, 2)),
    case("MatMul-13", r(2, 3), r(3)),
    case("MatMulInteger-10", r(2, 3), r(3, 2), np.array([3, 5], np.uint8), np.int8(-1)),
    case("Gemm-13", r(2, 3), r(3, 4)),
    case("Gemm-13", r(2, 3), r(4, 3), r(4), transB=1),
    case("Gemm-13", r(3, 2), r(4, 3), r(2, 1), transA=1, transB=1, alpha=0.7, beta=1.3),
    case("Gemm-7", r(2, 3), r(3, 4), r(), alpha=0.7),
    case("Det-22", r(2, 3, 3)),
    case("Einsum-12", r(2, 3), r(3, 2), equation="ij,jk->ki"),
    case("Einsum-12", r(2, 1, 2, 3), r(2, 3, 2), equation="...ij,...jk->...ik"),
    case("Einsum-12", r(2, 3, 3), equation="bii->bi"),
    case("Einsum-12", r(2, 3), r(3), r(2), equation="ij,j,i"),
]

SPECTRAL = [
    case("DFT-17", r(1, 4, 1)),
    case("DFT-17", r(1, 2, 4, 2), axis=2, inverse=1),
    case("DFT-20", r(1, 4, 1), [5], onesided=1),
    case("DFT-20", r(1, 3, 2, 2), None, 1),
    case("DFT-20", r(1, 3, 2), [4], inverse=1, onesided=1),
    case("STFT-17", r(1, 6, 1), 2, r(4)),
    case("STFT-17", r(1, 5, 2), 1, None, 3, onesided=0),
]

SMALL = {"hidden_size": 2, "outputs": 2}
RECURRENT = [
    *(
        case(f"{op}-14", r(3, 1, 2), r(ways, gates * 2, 2), r(ways, gates * 2, 2), direction=direction, **SMALL)
        for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
        for direction, ways in (("forward", 1), ("reverse", 1), ("bidirectional", 2))
    ),
    case("LSTM-7", r(2, 2, 1), r(1, 8, 1), r(1, 8, 2), r(1, 16), [2, 1], r(1, 2, 2), r(1, 2, 2), r(1, 6), outputs=3),
    case("LSTM-22", r(1, 2, 1), r(1, 4, 1), r(1, 4, 1), r(1, 8), layout=1, input_forget=1, clip=1.1, outputs=3),
    case("LSTM-14", r(2, 1, 1), r(1, 4, 1), r(1, 4, 1), activations=["HardSigmoid", "Softsign", "Elu"], outputs=1),
    case("GRU-7", r(3, 2, 1), r(1, 6, 1), r(1, 6, 2), r(1, 12), [3, 2], r(1, 2, 2), **SMALL),
    case("GRU-14", r(2, 2, 1), r(1, 6, 1), r(1, 6, 2), r(1, 12), linear_before_reset=1, layout=1, **SMALL),
    case("RNN-22", r(3, 2, 1), r(1, 2, 1), r(1, 2, 2), r(1, 4), [1, 3], r(1, 2, 2), direction="reverse", **SMALL),
    case("RNN-14", r(2, 2, 1), r(1, 2, 1), r(1, 2, 2), activations=["Affine"], activation_alpha=[0.5], layout=1),
]

QUERY, KEYS, FLAT = r(1, 2, 2, 2), r(1, 2, 3, 2), {"q_num_heads": 2, "kv_num_heads": 1}
ATTENTION = [
    case("Attention-23", QUERY, KEYS, KEYS),
    case("Attention-23", QUERY, KEYS, r(1, 2, 3, 1), scale=0.3, softcap=1.5),
    case("Attention-23", QUERY, KEYS, KEYS, r(2, 3)),
    case("Attention-23", QUERY, KEYS, KEYS, [[True, False, True], [False, True, True]]),
    case("Attention-24", QUERY, KEYS, KEYS, [[True, False, True], [False, False, False]], outputs=4),
    case("Attention-23", QUERY, KEYS, KEYS, is_causal=1),
    case("Attention-23", QUERY, KEYS, KEYS, None, r(1, 2, 1, 2), r(1, 2, 1, 2), is_causal=1, outputs=3),
    case("Attention-24", QUERY, KEYS, KEYS, None, None, None, [2]),
    case("Attention-23", r(1, 2, 4), r(1, 3, 2), r(1, 3, 2), **FLAT),
    case("Attention-23", r(1, 2, 4), r(1, 3, 2), r(1, 3, 2), r(1, 1, 2, 3), softcap=2.0, outputs=3, **FLAT),
    *(
        case("Attention-23", QUERY, KEYS, KEYS, r(2, 3), softcap=2.0, qk_matmul_output_mode=mode, outputs=4)
        for mode in range(4)
    ),
    case("RotaryEmbedding-23", r(1, 2, 2, 4), r(1, 2, 2), r(1, 2, 2)),
    case("RotaryEmbedding-23", r(1, 2, 1, 4), r(3, 1), r(3, 1), [[2]], interleaved=1, rotary_embedding_dim=2),
    case("RotaryEmbedding-23", r(1, 2, 8), r(3, 2), r(3, 2), [[2, 0]], num_heads=2),
]

CLASSES = [[0, 2], [1, 1]]
OTHER = [
    *(
        case(f"{loss}-13", r(2, 3, 2), CLASSES, reduction=reduction)
        for loss in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
        for reduction in ("none", "sum", "mean")
    ),
    case("NegativeLogLikelihoodLoss-22", r(2, 3, 2), CLASSES, [0.3, 2.0, 0.7], ignore_index=1),
    case("SoftmaxCrossEntropyLoss-13", r(2, 3), [2, 0], [0.3, 2.0, 0.7], outputs=2),
    case(
        "DequantizeLinear-13",
        np.array([[1, -3], [7, 90]], np.int8),
        within(0.1, 2, 2),
        np.array([0, 2], np.int8),
        axis=0,
    ),
    case("DequantizeLinear-21", r(2, 4), within(0.1, 2, 2, 2), axis=1, block_size=2),
    case("com.microsoft::DequantizeLinear-1", r(2, 3), within(0.1, 2), np.uint8(3)),
    *(
        case(
            "If-25",
            condition,
            r(2, 3),
            r(3),
            then_branch=branch("a = Mul (in1, in2) out = Sin (a)"),
            else_branch=branch("out = Sub (in1, in2)"),
        )
        for condition in (True, False)
    ),
]

CASES = [
    *ELEMENTWISE,
    *SPATIAL,
    *SHAPE,
    *INDEX,
    *REDUCTION,
    *LINEAR,
    *SPECTRAL,
    *RECURRENT,
    *ATTENTION,
    *OTHER,
]
