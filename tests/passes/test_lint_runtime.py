"""What the linter says of ONNX Runtime is what ONNX Runtime does: where it stays in float, where numbers go wrong."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from passes.lint import lint
from passes.targets import TARGETS
from tests.passes.qdq_models import FUSED, U8, W, model, pair

ORT_CPU = TARGETS["ort-cpu"]
FLOAT = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "Add", "Concat"}
SAYS_FLOAT = {"fusion-broken", "bias-float", "bias-scale", "int4-unfused", "int4-blocked-conv"}


def session(made, level="EXTENDED", path=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    names = {"EXTENDED": "ORT_ENABLE_EXTENDED", "NONE": "ORT_DISABLE_ALL"}
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, names[level])
    if path is not None:
        options.optimized_model_filepath = str(path)
    return onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(made, level):
    x = np.random.default_rng(1).standard_normal(
        [dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim]
    )
    return session(made, level).run(None, {"x": x.astype(np.float32)})[0]


def float_nodes(made, path):
    """Operators that ONNX Runtime computes in float although they were meant for integers."""
    session(made, path=path)
    return [node.op_type for node in onnx.load(path).graph.node if node.op_type in FLOAT]


C = f"{U8} {W} a = Conv (xd, wd)"
M = f"{U8} v = DQ <axis = 1> (m, sw, zw)"
HARD = ("LeakyRelu", "Sigmoid", "Tanh", "HardSwish")
MOVED = {
    "MaxPool": "MaxPool <kernel_shape = [2,2]> (a)", "Reshape": "Reshape (a, shape)", "Flatten": "Flatten (a)",
    "Transpose": "Transpose <perm = [0,1,3,2]> (a)", "Slice": "Slice (a, one, last, last)",
    "Gather": "Gather <axis = 3> (a, one)", "Unsqueeze": "Unsqueeze (a, last)", "Identity": "Identity (a)",
    "DepthToSpace": "DepthToSpace <blocksize = 2> (a)", "AveragePool": "AveragePool <kernel_shape = [2,2]> (a)",
    "GlobalAveragePool": "GlobalAveragePool (a)", "Concat": "Concat <axis = 1> (a, xd)",
}  # fmt: skip
BODIES = {
    "quantized": f"{C} {pair('a', 'y')}",
    "no quantizer after": f"{C} y = Identity (a)",
    "Relu from 0": f"{C} r = Relu (a) {pair('r', 'y', zero='n')}",
    "Relu from below 0": f"{C} r = Relu (a) {pair('r', 'y')}",
    "Clip up to its bound": f"{C} r = Clip (a, zero, six) {pair('r', 'y', 'exact', 'n')}",
    "Clip up to nearly its bound": f"{C} r = Clip (a, zero, six) {pair('r', 'y', 'near', 'n')}",
    "Clip up to beyond its bound": f"{C} r = Clip (a, zero, six) {pair('r', 'y', 'beyond', 'n')}",
    "Clip without an upper bound": f"{C} r = Clip (a, zero) {pair('r', 'y', zero='n')}",
    "Relu and float": f"{C} y = Relu (a)",
    "Relu and pool": f"{C} r = Relu (a) p = MaxPool <kernel_shape = [2,2]> (r) {pair('p', 'y', zero='n')}",
    "pool and Relu": f"{C} p = MaxPool <kernel_shape = [2,2]> (a) r = Relu (p) {pair('r', 'y', zero='n')}",
    "one Q, two DQ": f"{C} q = Q (a, t, u) y = DQ (q, t, u) e = DQ (q, t, u)",
    "two Q": f"{C} {pair('a', 'y')} {pair('a', 'e', 's')}",
    "read in float too": f"{C} {pair('a', 'y')} e = Exp (a)",
    "bias in float": f"{U8} {W} a = Conv (xd, wd, b) {pair('a', 'y')}",
    "bias in int32": f"{U8} {W} bd = DQ <axis = 0> (b32, s32, z32) a = Conv (xd, wd, bd) {pair('a', 'y')}",
    "bias with another scale": f"{U8} {W} bd = DQ <axis = 0> (b32, sw, z32) a = Conv (xd, wd, bd) {pair('a', 'y')}",
    "weights only": f"{W} y = Conv (x, wd)",
    "ConvTranspose": f"{U8} {W} a = ConvTranspose (xd, wd) {pair('a', 'y')}",
    "4 bits": FUSED.replace("(w, sw, zw)", "(w4, sw, z4)"),
    "4 bits and Cast": FUSED.replace("wd =", "c = Cast <to = 3> (w4) wd =").replace("(w, sw", "(c, sw"),
    "4 bits in blocks": FUSED.replace("axis = 0> (w, sw, zw)", "axis = 1, block_size = 8> (w4, sb)"),
    "Add": f"{C} {pair('a', 'e')} c = Add (e, xd) {pair('c', 'y')}",
    "Add and Relu from 0": f"{C} {pair('a', 'e')} c = Add (e, xd) r = Relu (c) {pair('r', 'y', zero='n')}",
    "Add and Relu from below 0": f"{C} {pair('a', 'e')} c = Add (e, xd) r = Relu (c) {pair('r', 'y')}",
    "Add of a float": f"{C} {pair('a', 'e')} c = Add (e, x) {pair('c', 'y')}",
    "Add of a constant": f"{C} {pair('a', 'e')} c = Add (e, k) {pair('c', 'y')}",
    "Concat of a float": f"{C} {pair('a', 'e')} c = Concat <axis = 1> (e, x) {pair('c', 'y')}",
    **{f"{op} and Q": f"{C} r = {op} (a) {pair('r', 'y')}" for op in HARD},
    **{f"Q and {op}": f"{C} {pair('a', 'e')} r = {op} (e) {pair('r', 'y')}" for op in HARD},
    **{f"{op} before Q": f"{C} r = {text} {pair('r', 'y')}" for op, text in MOVED.items()},
}  # fmt: skip
PRODUCTS = {
    "MatMul": f"{M} y = MatMul (xd, v)",
    "MatMul, Q": f"{M} a = MatMul (xd, v) {pair('a', 'y')}",
    "MatMul, Relu from below 0": f"{M} a = MatMul (xd, v) r = Relu (a) {pair('r', 'y')}",
    "MatMul, read in float too": f"{M} a = MatMul (xd, v) {pair('a', 'y')} e = Exp (a)",
    "MatMul, bias, Q": f"{M} a = MatMul (xd, v) c = Add (a, b) {pair('c', 'y')}",
    "MatMul, bias": f"{M} a = MatMul (xd, v) y = Add (a, b)",
    "Gemm": f"{M} y = Gemm (xd, v)",
    "Gemm, Relu": f"{M} a = Gemm (xd, v) y = Relu (a)",
    "Gemm, Relu from below 0": f"{M} a = Gemm (xd, v) r = Relu (a) {pair('r', 'y')}",
    "Gemm, float bias": f"{M} y = Gemm (xd, v, b)",
    "Gemm, float bias, Q": f"{M} a = Gemm (xd, v, b) {pair('a', 'y')}",
    "Gemm, int32 bias": f"{M} bd = DQ <axis = 0> (b32, s32, z32) y = Gemm (xd, v, bd)",
    "weights only, Gemm": "v = DQ <axis = 1> (m, sw, zw) y = Gemm (x, v)",
    "weights only, Gemm, transposed": "v = DQ <axis = 0> (m, sw, zw) y = Gemm <transB = 1> (x, v)",
    "4 bits into Gemm, transposed": "v = DQ <axis = 0> (m4, sw, z4) y = Gemm <transB = 1> (x, v)",
    "4 bits into Gemm": "v = DQ <axis = 1> (m4, sw, z4) y = Gemm (x, v)",
    "4 bits between integers": f"{U8} v = DQ <axis = 1> (m4, sw, z4) y = MatMul (xd, v)",
}  # fmt: skip
SCALES = {"exact": np.float32(6 / 255), "near": np.float32(6.01 / 255), "beyond": np.float32(6.1 / 255)}


def with_outputs(body, shape):
    """The model of a body; its outputs are y, and e where nothing reads it."""
    outputs = ("y", "e") if " e = " in body and "(e" not in body else ("y",)
    return model(body, shape=shape, outputs=outputs, **SCALES)


@pytest.mark.parametrize("name", [*BODIES, *PRODUCTS])
def test_it_stays_in_float_where_the_linter_says_so(name, tmp_path):
    made = with_outputs(BODIES[name], "1,16,6,6") if name in BODIES else with_outputs(PRODUCTS[name], "4,16")
    said = [finding for finding in lint(made, ORT_CPU) if finding.rule in SAYS_FLOAT]
    assert bool(said) == bool(float_nodes(made, tmp_path / "optimized.onnx"))


def test_scales_along_the_wrong_axis_give_wrong_numbers():
    """The kernels take them for scales of output channels: this is why axis-wrong is an error."""
    for wrong, shape in [
        (FUSED.replace("axis = 0", "axis = 1"), "1,16,6,6"),
        (FUSED.replace("<axis = 0>", ""), "1,16,6,6"),
        (f"{U8} v = DQ <axis = 0> (m, sw, zw) y = MatMul (xd, v)", "4,16"),
        (f"{U8} v = DQ <axis = 1> (m, sw, zw) y = Gemm <transB = 1> (xd, v)", "4,16"),
        (f"{U8} {W} r = Transpose <perm = [1,0,2,3]> (wd) a = Conv (xd, r) {pair('a', 'y')}", "1,16,6,6"),
    ]:
        made = model(wrong, shape=shape)
        assert "axis-wrong" in [finding.rule for finding in lint(made, ORT_CPU) if finding.severity == "error"]
        assert np.abs(answers(made, "EXTENDED") - answers(made, "NONE")).max() > 0.5


def test_a_bias_with_another_scale_gives_wrong_numbers_in_a_gemm():
    made = model(f"{M} bd = DQ <axis = 0> (b32, sw, z32) y = Gemm (xd, v, bd)", shape="4,16")
    assert [(finding.rule, finding.severity) for finding in lint(made, ORT_CPU)] == [("bias-scale", "error")]
    assert np.abs(answers(made, "EXTENDED") - answers(made, "NONE")).max() > 0.5


@pytest.mark.parametrize(
    ("body", "rule", "shape"),
    [
        (f"xq = Q <axis = 1> (x, sw, zu) xd = DQ <axis = 1> (xq, sw, zu) {W} a = Conv (xd, wd) {pair('a', 'y')}",
         "activation-per-channel", "1,16,6,6"),
        (FUSED.replace("axis = 0> (w, sw, zw)", "axis = 1, block_size = 8> (w, sb)"), "int8-blocked", "1,16,6,6"),
        (f"{U8} v = DQ <axis = 0, block_size = 8> (m, sk) y = MatMul (xd, v)", "int8-blocked", "4,16"),
    ],
)  # fmt: skip
def test_what_fails_when_it_runs_is_an_error(body, rule, shape):
    made = model(body, shape=shape, zu=np.full(16, 128, np.uint8))
    assert rule in [finding.rule for finding in lint(made, ORT_CPU) if finding.severity == "error"]
    with pytest.raises(Exception, match="Non-zero status code"):
        answers(made, "EXTENDED")
    answers(made, "NONE")


class Noise(CalibrationDataReader):
    """Two random batches."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.batches = iter([{"x": rng.standard_normal((1, 16, 6, 6)).astype(np.float32)} for _ in range(2)])

    def get_next(self):
        return next(self.batches, None)


@pytest.mark.parametrize("per_channel", [False, True])
def test_what_onnxruntimes_own_quantizer_writes_by_default(per_channel, tmp_path):
    rng = np.random.default_rng(3)
    constants = {name: rng.standard_normal((16, 16, 1, 1)).astype(np.float32) for name in ("v1", "v2")}
    constants |= {name: rng.standard_normal(16).astype(np.float32) for name in ("b1", "b2")}
    body = "a = Conv (x, v1, b1) r = Relu (a) c = Conv (r, v2, b2) d = Add (c, r) y = Relu (d)"
    onnx.save(model(body, opset=17, **constants), tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", tmp_path / "int8.onnx", Noise(), per_channel=per_channel)
    made = onnx.load(tmp_path / "int8.onnx")
    errors = {finding.rule for finding in lint(made, TARGETS["tensorrt"]) if finding.severity == "error"}
    assert errors == {"bias-int32", "zero-point"}
    assert "add-both-quantized" in [finding.rule for finding in lint(made, TARGETS["tensorrt"])]
    assert {finding.rule for finding in lint(made, ORT_CPU)} == {"activation-type"}  # int8 is for ARM
    assert lint(made, TARGETS["ort-arm"]) == []
