"""The patterns that networks are made of, as small models, and the way from one to what a runtime makes of it.

Weights are declared with a type and without values: ``float[16,16,3,3] w`` is filled at random.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx import numpy_helper, parser, shape_inference

from passes.base import run_passes
from passes.canonicalize import CANONICAL
from passes.fold_batchnorm import FoldBatchNorm
from passes.freeze_weights import FreezeBiases, FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.integer_forms import INTEGER_FORMS
from passes.placement import Placement, place
from passes.plan import QuantPlan, decide
from passes.precise_biases import PreciseBiases
from passes.targets import TARGETS

HEAD = "(float[1,16,8,8] x) => (float[1,16,8,8] y)"
WEIGHTS = "float[16,16,3,3] u, float[16] ub, float[16,16,1,1] v, float[16,16,1,1] w, float[16,16,1,1] z"
CONV = "<pads = [1,1,1,1]> (x, u, ub)"
CALIBRATION = range(1, 9)  # seeds of the inputs from which ranges are taken
HELD_OUT = 9  # and of the one on which models are compared


def _between(steps: str, constants: str = "") -> str:
    """``steps`` from a to c, between two convolutions."""
    return f"{HEAD} <{WEIGHTS}{constants}> {{ a = Conv {CONV} {steps} y = Conv (c, v) }}"


PATTERNS: Mapping[str, str] = {
    # activations
    "conv-relu": _between("c = Relu (a)"),
    "conv-relu6": _between("c = Clip (a, low, high)", ", float low = {0}, float high = {6}"),
    "conv-clip": _between("c = Clip (a, low, high)", ", float low = {-1}, float high = {2}"),
    "conv-leaky-relu": _between("c = LeakyRelu <alpha = 0.1> (a)"),
    "conv-silu": _between("s = Sigmoid (a) c = Mul (a, s)"),
    "conv-hard-swish": _between("c = HardSwish (a)"),
    "conv-hard-swish-in-parts": _between("h = HardSigmoid <alpha = 0.16666667> (a) c = Mul (a, h)"),
    "conv-hard-swish-by-clip": _between(
        "p = Add (a, three) q = Clip (p, low, high) m = Mul (a, q) c = Div (m, high)",
        ", float three = {3}, float low = {0}, float high = {6}",
    ),
    # branches
    "residual-add": _between("r = Relu (a) b = Conv (r, w) c = Add (b, r)"),
    "residual-add-relu": _between("r = Relu (a) b = Conv (r, w) s = Add (r, b) c = Relu (s)"),
    "residual-two-convs": _between("b = Conv (x, w) s = Add (a, b) c = Relu (s)"),
    "three-way-add": _between("b = Conv (x, w) d = Conv (x, z) s = Add (a, b) t = Add (s, d) c = Relu (t)"),
    "three-way-sum": _between("b = Conv (x, w) d = Conv (x, z) s = Sum (a, b, d) c = Relu (s)"),
    "concat": _between("p = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (a) b = Conv (a, w) "
                       "d = Concat <axis = 1> (p, b) c = Conv (d, wide)", ", float[16,32,1,1] wide"),
    "concat-relu": _between("b = Conv (x, w) d = Concat <axis = 1> (a, b) r = Relu (d) c = Conv (r, wide)",
                            ", float[16,32,1,1] wide"),
    "concat-of-pool-relu": _between(
        "p = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (a) d = Concat <axis = 1> (p, a) r = Relu (d) "
        "c = Conv (r, wide)", ", float[16,32,1,1] wide"),
    "concat-far-apart": """(float[1,16,8,8] x) => (float[1,8,64] y)
        <float[4,16,1,1] u, float[4,16,1,1] v, int64[3] s = {1, 4, 64}, float wide = {640}> {
            a = Conv (x, u) b = Sigmoid (a) boxes = Mul (b, wide) c = Conv (x, v) scores = Sigmoid (c)
            d = Reshape (boxes, s) e = Reshape (scores, s) y = Concat <axis = 1> (d, e)
        }""",
    "concat-far-apart-conv": _between("b = Conv (x, small) d = Concat <axis = 1> (a, b) c = Conv (d, wide)",
                                      ", float[16,16,1,1] small, float[16,32,1,1] wide"),
    "squeeze-excite": _between(
        "r = Relu (a) p = GlobalAveragePool (r) d = Conv (p, w) e = Relu (d) f = Conv (e, z) s = Sigmoid (f) "
        "c = Mul (r, s)"
    ),
    "squeeze-excite-hard": _between(
        "r = Relu (a) p = ReduceMean <axes = [2,3]> (r) d = Conv (p, w) e = Relu (d) f = Conv (e, z) "
        "s = HardSigmoid <alpha = 0.16666667> (f) c = Mul (s, r)"
    ),
    # layers
    "depthwise": _between("r = Relu (a) b = Conv <group = 16, pads = [1,1,1,1]> (r, d) c = Relu (b)",
                          ", float[16,1,3,3] d"),
    "grouped": _between("r = Relu (a) b = Conv <group = 2, pads = [1,1,1,1]> (r, d) c = Relu (b)",
                        ", float[16,8,3,3] d"),
    "conv-transpose": f"""(float[1,16,8,8] x) => (float[1,16,16,16] y) <{WEIGHTS}, float[16,16,2,2] t> {{
        a = Conv {CONV} r = Relu (a) c = ConvTranspose <strides = [2,2]> (r, t) y = Conv (c, v)
    }}""",
    "shared-weights": _between("r = Relu (a) b = Conv <pads = [1,1,1,1]> (r, u, ub) s = Add (r, b) c = Relu (s)"),
    "gemm": """(float[4,32] x) => (float[4,8] y) <float[32,16] u, float[16] b, float[8,16] v, float[8] d> {
        a = Gemm (x, u, b) c = Relu (a) y = Gemm <transB = 1> (c, v, d)
    }""",
    "matmul": """(float[4,32] x) => (float[4,8] y) <float[32,16] u, float[16] b, float[16,8] v> {
        a = MatMul (x, u) s = Add (a, b) c = Relu (s) y = MatMul (c, v)
    }""",
    "matmul-of-rows": """(float[1,4,32] x) => (float[1,4,8] y)
        <float[32,16] u, float[16] b, float[16,8] v, float[8] d> {
        a = MatMul (x, u) s = Add (a, b) c = Relu (s) m = MatMul (c, v) y = Add (m, d)
    }""",
    "matmul-of-weights": """(float[32,4] x) => (float[8,4] y) <float[16,32] u, float[8,16] v> {
        a = MatMul (u, x) c = Relu (a) y = MatMul (v, c)
    }""",
    # data movers and pools
    "split-concat": _between("p, q = Split <axis = 1> (a, parts) r = Conv (p, half) d = Concat <axis = 1> (r, q) "
                             "c = Relu (d)", ", int64[2] parts = {8, 8}, float[8,8,1,1] half"),
    "slice-chain": _between(
        "r = Relu (a) s = Slice (r, one, last, one) d = Reshape (s, five) e = Transpose <perm = [0,2,1,3,4]> (d) "
        "f = Reshape (e, four) c = Conv (f, odd)",
        ", int64[1] one = {1}, int64[1] last = {16}, int64[5] five = {1, 3, 5, 8, 8}, int64[4] four = {1, 15, 8, 8}, "
        "float[16,15,1,1] odd",
    ),
    "max-pool": _between("r = Relu (a) c = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (r)"),
    "average-pool": _between("r = Relu (a) c = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (r)"),
    "global-average-pool": """(float[1,16,8,8] x) => (float[1,10] y) <float[16,16,1,1] u, float[10,16] v> {
        a = Conv (x, u) r = Relu (a) p = GlobalAveragePool (r) f = Flatten (p) y = Gemm <transB = 1> (f, v)
    }""",
    "reduce-mean": """(float[1,16,8,8] x) => (float[1,10] y) <float[16,16,1,1] u, float[10,16] v> {
        a = Conv (x, u) r = Relu (a) f = ReduceMean <axes = [2,3], keepdims = 0> (r) y = Gemm <transB = 1> (f, v)
    }""",
    "resize-nearest": f"""(float[1,16,8,8] x) => (float[1,16,16,16] y) <{WEIGHTS}, float[4] two = {{1,1,2,2}}> {{
        a = Conv {CONV} r = Relu (a) c = Resize <mode = "nearest"> (r, , two) y = Conv (c, v)
    }}""",
    "resize-linear": f"""(float[1,16,8,8] x) => (float[1,16,16,16] y) <{WEIGHTS}, float[4] two = {{1,1,2,2}}> {{
        a = Conv {CONV} r = Relu (a) c = Resize <mode = "linear"> (r, , two) y = Conv (c, v)
    }}""",
    "pad": f"""(float[1,16,8,8] x) => (float[1,16,10,10] y) <{WEIGHTS}, int64[8] p = {{0,0,1,1,0,0,1,1}}> {{
        a = Conv {CONV} r = Relu (a) c = Pad (r, p) y = Conv (c, v)
    }}""",
    "depth-to-space": f"""(float[1,16,8,8] x) => (float[1,16,16,16] y) <{WEIGHTS}, float[16,4,1,1] d> {{
        a = Conv {CONV} c = DepthToSpace <blocksize = 2> (a) y = Conv (c, d)
    }}""",
    # transformers
    "layer-norm": """(float[1,4,16] x) => (float[1,4,16] y) <float[16] g, float[16] h, float[16,16] u, float[16] b> {
        n = LayerNormalization (x, g, h) m = MatMul (n, u) a = Add (m, b) y = Add (x, a)
    }""",
    "gelu": """(float[1,4,16] x) => (float[1,4,16] y)
        <float[16,32] u, float[32] b, float[32,16] v, float root = {1.4142135}, float one = {1}, float half = {0.5}> {
        m = MatMul (x, u) a = Add (m, b) d = Div (a, root) e = Erf (d) f = Add (e, one) h = Mul (a, f)
        c = Mul (h, half) y = MatMul (c, v)
    }""",
    "softmax": """(float[1,16,8,8] x) => (float[1,10] y) <float[16,16,1,1] u, float[10,16] v> {
        a = Conv (x, u) p = GlobalAveragePool (a) f = Flatten (p) l = Gemm <transB = 1> (f, v) y = Softmax (l)
    }""",
    "attention": """(float[1,4,16] x) => (float[1,4,16] y)
        <float[16,16] wq, float[16,16] wk, float[16,16] wv, float[16,16] wo, float root = {0.25}> {
        q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv) t = Transpose <perm = [0,2,1]> (k)
        s = MatMul (q, t) d = Mul (s, root) p = Softmax (d) h = MatMul (p, v) y = MatMul (h, wo)
    }""",
    # whole models
    "two-inputs-two-outputs": f"""(float[1,16,8,8] x, float[1,16,8,8] o) => (float[1,16,8,8] y, float[1,16,8,8] r)
        <{WEIGHTS}> {{ a = Conv {CONV} b = Conv (o, w) s = Add (a, b) r = Relu (s) y = Conv (r, v) }}""",
    "constant-operands": _between("s = Add (a, row) m = Mul (s, number) c = Mul (m, row)",
                                  ", float[1,16,1,1] row, float number = {0.5}"),
    "constant-branch": _between("k = Relu (tall) m = Mul (k, tall) c = Add (a, m)", ", float[1,16,8,8] tall"),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A pattern for one target: the float graph on which it was decided, what was decided, and the model written."""

    graph: gs.Graph
    placed: Placement
    plan: QuantPlan
    quantized: onnx.ModelProto


@cache
def model_of(name: str) -> onnx.ModelProto:
    """A pattern with weights of an ordinary size."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\ng {PATTERNS[name]}')
    rng = np.random.default_rng(0)
    written = {tensor for node in model.graph.node for tensor in node.output}
    for entry in [each for each in model.graph.value_info if each.name not in written]:
        shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        spread = np.prod(shape[1:]) ** -0.5 * (0.005 if entry.name == "small" else 1)
        values = rng.normal(0, spread, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, entry.name))
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def feeds_of(name: str, seed: int) -> dict[str, np.ndarray]:
    """A random input."""
    rng = np.random.default_rng(seed)
    shapes = {
        each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in model_of(name).graph.input
    }
    return {tensor: rng.normal(0, 1, shape).astype(np.float32) for tensor, shape in shapes.items()}


@cache
def made(name: str, target: str) -> Made:
    """Quantize a pattern as the product does, with ranges from a few random inputs."""
    (form, ranges), goal = _form(name), TARGETS[target]
    graph, copy = gs.import_onnx(form), gs.import_onnx(form)
    placed = place(graph, goal, ranges)
    plan = decide(graph, ranges, goal, placement=placed)
    precise = [PreciseBiases(goal.reader.climbs)] if goal.int32_bias else []
    run_passes(copy, [InsertQDQ(plan), FreezeBiases(goal.int32_bias_written), FreezeWeights(), *precise])
    quantized = gs.export_onnx(copy)
    onnx.checker.check_model(quantized, full_check=True)
    return Made(graph, placed, plan, quantized)


@cache
def _form(name: str) -> tuple[onnx.ModelProto, dict[str, tuple[float, float]]]:
    """The float model as it is placed on, and the lowest and highest value of every tensor that is computed or fed."""
    graph = gs.import_onnx(shape_inference.infer_shapes(model_of(name)))
    run_passes(graph, [*CANONICAL, FoldBatchNorm(), *INTEGER_FORMS])
    model = shape_inference.infer_shapes(gs.export_onnx(graph))
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    known = {entry.name for entry in model.graph.output}
    tapped.graph.output.extend(entry for entry in model.graph.value_info if entry.name not in known)
    found: dict[str, tuple[float, float]] = {}
    for feeds in (feeds_of(name, seed) for seed in CALIBRATION):
        for tensor, values in {**feeds, **outputs(tapped, feeds)}.items():
            low, high = found.get(tensor, (0.0, 0.0))
            found[tensor] = (min(low, float(values.min())), max(high, float(values.max())))
    return model, found


# -- ONNX Runtime


def _session(model: onnx.ModelProto, signed: bool, path: str = "") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = path
    if signed:  # let x86 fuse what ARM fuses: slow here, but the same kernels
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def outputs(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, signed: bool = False) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes, with its fusions, by name. signed: fuse int8 activations too."""
    session = _session(model, signed)
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


@cache
def kernels(name: str, target: str) -> Counter[str]:
    """How many of each operator are in what ONNX Runtime makes of a pattern."""
    signed = TARGETS[target].activation == "int8"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        _session(made(name, target).quantized, signed, str(path))
        return Counter(node.op_type for node in onnx.load(path).graph.node)


# -- as text

CPU = ("ort-cpu", "ort-cpu-avx2", "ort-arm")  # one placement, and the same kernels


def golden(name: str) -> str:
    """What is decided for each target, and what ONNX Runtime's CPU provider makes of it.

    tensor>readers of what is quantized, weights/axis, one=scale; ! a node that stays in float, and why.
    """
    lines = [f"    {target:<10}{decided(made(name, target))}" for target in TARGETS if target not in CPU[1:]]
    found = ", ".join(f"{count} {op}" for op, count in kernels(name, CPU[0]).items())
    return "\n".join([name, *lines, f"    {'runs':<10}{found}"])


def decided(each: Made) -> str:
    """A placement in one line."""
    order = {tensor: position for position, tensor in enumerate(each.graph.tensors())}
    words = [
        f"{tensor}>{','.join(sorted(each.placed.readers.get(tensor, ())))}"
        for tensor in sorted(each.placed.tensors, key=order.__getitem__)
    ]
    words += [f"{weight}/{site.axis}" for weight, site in each.placed.weights.items()]
    groups = [sorted(group & each.placed.tensors.keys()) for group in each.placed.groups]
    words += sorted("=".join(group) for group in groups if len(group) > 1)
    return " ".join([*words, *(f"! {skip.node}: {skip.reason}" for skip in each.placed.skips)])
