"""What runs each layer, as ONNX Runtime itself says, and the reasons for float."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdfq.errors import OnnxdfqError
from onnxdfq.verify import float_reasons
from onnxdfq.verify import kernels as module
from onnxdfq.verify.kernels import kernels

RNG = np.random.default_rng(3)
AGAIN = "; its weights are dequantized at every call"
X = "xi = QuantizeLinear (x, s, z) xd = DequantizeLinear (xi, s, z)"
W = "wd = DequantizeLinear <axis = 0> (w, ws, wz)"
Y = "yi = QuantizeLinear (a, s, z) y = DequantizeLinear (yi, s, z)"


def quantized(kernel, channels=16):
    """Weights ``w`` [O, ...] with scales and zero-points, and scale ``s`` and zero-point ``z`` of activations."""
    return {
        "w": RNG.integers(-127, 128, kernel).astype(np.int8),
        "ws": np.full(channels, 0.01, np.float32),
        "wz": np.zeros(channels, np.int8),
        "s": np.float32(0.05),
        "z": np.uint8(128),
        "zero": np.uint8(0),
    }


def model(body, inputs="float[N,16,8,8] x", outputs="float[A,B,C,D] y", opset=21, **initializers):
    text = f"g ({inputs}) => ({outputs}) {{ {body} }}"
    built = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    for name, value in initializers.items():
        array = RNG.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else np.asarray(value)
        built.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(built)
    return built


def conv(body, **initializers):
    return model(body, **{**quantized((16, 16, 1, 1)), **initializers})


def only(built, **options):
    """The single layer of a model: its kernel and the reason."""
    (layer,) = kernels(built, **options).layers
    assert layer.integer is (layer.reason == "")
    return layer.kernel, layer.reason


# -- integer kernels


def test_a_quantized_convolution_is_an_integer_kernel():
    report = kernels(conv(f"{X} {W} a = Conv (xd, wd) {Y}"))
    (layer,) = report.layers
    assert (layer.op, layer.kernel, layer.integer, layer.reason) == ("Conv", "QLinearConv", True, "")
    assert layer.macs == 16 * 16 * 8 * 8
    assert (report.quantize, report.dequantize, report.floats) == (1, 1, {})
    assert (report.share, report.without_macs, report.counts) == (1.0, 0, {"QLinearConv": 1})


@pytest.mark.parametrize("between", ["r = Relu (a)", "r = Clip (a, low, high)"])
def test_an_activation_that_the_quantizer_stands_in_for_is_absorbed(between):
    built = conv(f"{X} {W} a = Conv (xd, wd) {between} yi = QuantizeLinear (r, s, zero) "
                 "y = DequantizeLinear (yi, s, zero)", low=np.float32(0), high=np.float32(12.75))  # fmt: skip
    assert only(built) == ("QLinearConv", "")


@pytest.mark.parametrize(
    ("body", "kernel"),
    [
        (f"{X} {W} y = Gemm <transB = 1> (xd, wd)", "QGemm"),
        (f"{X} {W} a = Gemm <transB = 1> (xd, wd, b) {Y}", "QGemm"),
        (f"{X} {W} y = MatMul (xd, wd)", "MatMulIntegerToFloat"),
        (f"{X} {W} a = MatMul (xd, wd) {Y}", "QLinearMatMul"),
        (f"{X} y = MatMul (xd, xd)", "MatMulIntegerToFloat"),
    ],
)
def test_products_of_matrices(body, kernel):
    axis_free = {"ws": np.float32(0.01), "wz": np.int8(0)}
    body = body.replace("<axis = 0> ", "")
    built = model(body, "float[16,16] x", "float[A,B] y", **{**quantized((16, 16)), **axis_free}, b=(16,))
    report = kernels(built)
    (layer,) = report.layers
    assert (layer.kernel, layer.integer, layer.reason) == (kernel, True, "")
    assert layer.macs == 16 * 16 * 16
    assert not report.floats


@pytest.mark.parametrize("bits", [4, 2])
def test_packed_weights_behind_a_cast_run_as_int8(bits):
    low = RNG.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (16, 16, 1, 1))
    packed = low.astype(ml_dtypes.int4 if bits == 4 else ml_dtypes.int2)
    body = f"{X} wc = Cast <to = 3> (w) wd = DequantizeLinear <axis = 0> (wc, ws, wz) a = Conv (xd, wd) {Y}"
    assert only(conv(body, opset=21 if bits == 4 else 25, w=packed)) == ("QLinearConv", "")


def test_integer_operators_in_the_file_count_as_they_are():
    body = """xi, xs, xz = DynamicQuantizeLinear (x) i = MatMulInteger (xi, w, xz, wz) f = Cast <to = 1> (i)
        k = Mul (xs, ws) y = Mul (f, k)"""
    parts = {**quantized((16, 16)), "ws": np.float32(0.1), "wz": np.int8(0)}
    dynamic = model(body, "float[4,16] x", "float[A,B] y", **parts)
    assert only(dynamic) == ("DynamicQuantizeMatMul", "")  # a fusion that forgets the name
    built = conv("xi = QuantizeLinear (x, s, z) yi = QLinearConv (xi, s, z, w, ws, wz, s, z) "
                 "y = DequantizeLinear (yi, s, z)")  # fmt: skip
    assert only(built) == ("QLinearConv", "")


# -- reasons for float


def test_a_float_model():
    report = kernels(model("a = Conv (x, v) y = Relu (a)", v=(8, 16, 3, 3)))
    assert [layer.reason for layer in report.layers] == ["it is not quantized"]
    assert report.layers[0].kernel == "FusedConv"
    assert report.share == 0
    assert report.floats == {"FusedConv": 1}


TWICE = "p = QuantizeLinear (a, s, z) q = QuantizeLinear (a, ws0, z) c = DequantizeLinear (p, s, z) " \
        "d = DequantizeLinear (q, ws0, z) y = Add (c, d)"  # fmt: skip
IN_FLOAT = {
    "no output": (f"{X} {W} y = Conv (xd, wd)", "its output is not quantized" + AGAIN),
    "activation": (f"{X} {W} a = Conv (xd, wd) r = Sigmoid (a) yi = QuantizeLinear (r, s, z) "
                   "y = DequantizeLinear (yi, s, z)", "Sigmoid stands between it and the quantizer" + AGAIN),
    "relu": (f"{X} {W} a = Conv (xd, wd) r = Relu (a) yi = QuantizeLinear (r, s, z) y = DequantizeLinear (yi, s, z)",
             "Relu stands between it and the quantizer, which does not clip the same way" + AGAIN),
    "read in float": (f"{X} {W} a = Conv (xd, wd) {Y.replace('y =', 'd =')} e = Exp (a) y = Add (d, e)",
                      "its output is read in float too" + AGAIN),
    "quantized twice": (f"{X} {W} a = Conv (xd, wd) {TWICE}", "its output is quantized more than once" + AGAIN),
    "input": (f"{W} a = Conv (x, wd) {Y}", "its input is not quantized" + AGAIN),
    "weights": (f"{X} y = Conv (xd, v)", "its weights are not quantized"),
    "operand": (f"{X} k = Reshape (x, shape) a = Conv (xd, k) {Y}", "its second operand is not quantized"),
    "transposed": (f"{X} {W} a = ConvTranspose (xd, wd) {Y}", "there is no integer kernel for ConvTranspose" + AGAIN),
}  # fmt: skip


@pytest.mark.parametrize("case", IN_FLOAT)
def test_a_convolution_in_float_has_a_reason(case):
    body, reason = IN_FLOAT[case]
    kernel, found = only(conv(body, v=(16, 16, 1, 1), shape=np.array([-1, 16, 1, 1]), ws0=np.float32(0.2)))
    assert kernel in ("Conv", "FusedConv", "ConvTranspose")
    assert found == reason


def test_an_output_of_the_model_that_is_read_in_float():
    body = f"{X} {W} a = Conv (xd, wd) {Y}"
    built = model(body, outputs="float[A,B,C,D] y, float[A,B,C,D] a", **quantized((16, 16, 1, 1)))
    assert only(built) == ("Conv", "its output is read in float too" + AGAIN)


def test_weights_of_four_bits_without_a_cast():
    parts = {"w": np.ones((16, 16, 1, 1), ml_dtypes.int4), "wz": np.zeros(16, ml_dtypes.int4)}
    reason = "its weights are dequantized from INT4: a Cast to INT8 has to come first" + AGAIN
    assert only(conv(f"{X} {W} a = Conv (xd, wd) {Y}", **parts)) == ("Conv", reason)


def test_activations_of_sixteen_bits():
    kernel, reason = only(conv(f"{X} {W} a = Conv (xd, wd) {Y}", z=np.uint16(0)))
    assert (kernel, reason) == ("Conv", "there is no integer kernel for UINT16 activations" + AGAIN)


SHARED = f"{X} {W} a = Conv (xd, wd) {Y.replace('y =', 'b =')} e = Exp (xd) y = Add (b, e)"


def test_signed_activations_with_several_readers(monkeypatch):
    signed = conv(SHARED, z=np.int8(0))
    monkeypatch.setattr(float_reasons.platform, "machine", lambda: "x86_64")
    kernel, reason = only(signed)
    if kernel == "Conv":  # elsewhere they are fused
        assert reason == "int8 activations that several nodes read are not fused on x86, uint8 ones are" + AGAIN
        monkeypatch.setattr(float_reasons.platform, "machine", lambda: "aarch64")
        assert only(signed)[1] == "the runtime has not fused it" + AGAIN
    assert only(conv(SHARED))[0] == "QLinearConv"


def test_a_float_bias_keeps_products_that_write_float_in_float():
    parts = quantized((16, 16)) | {"ws": np.float32(0.01), "wz": np.int8(0)}
    weights = "wd = DequantizeLinear (w, ws, wz)"
    gemm = model(f"{X} {weights} y = Gemm (xd, wd, b)", "float[4,16] x", "float[A,B] y", **parts, b=(16,))
    assert only(gemm) == ("Gemm", "its bias is float and its output is not quantized" + AGAIN)
    added = model(f"{X} {weights} a = MatMul (xd, wd) y = Add (a, b)", "float[2,4,16] x", "float[A,B,C] y",
                  **parts, b=(16,))  # fmt: skip
    reason = "the float bias that is added becomes part of it, and its output is not quantized" + AGAIN
    assert only(added) == ("Gemm", reason)
    assert kernels(added).layers[0].macs == 2 * 4 * 16 * 16


def test_weights_alone():
    parts = {"w": np.ones((16, 16), ml_dtypes.int4), "wz": np.zeros(16, ml_dtypes.int4), "ws": (16,)}
    body = "wd = DequantizeLinear <axis = 1> (w, ws, wz) y = MatMul (x, wd)"
    assert only(model(body, "float[4,16] x", "float[A,B] y", **parts)) == ("MatMulNBits", float_reasons.PACKED)


# -- what is left of a layer


def test_constant_and_repeated_layers_are_gone_and_cost_nothing():
    body = """k = MatMul (v, v) a = Conv (x, w) b = Conv (x, w) c = Add (a, b) f = Flatten (c) e = MatMul (f, u)
        y = Add (e, k)"""
    parts = {"v": (4, 4), "w": (1, 16, 8, 8), "u": (1, 4)}
    report = kernels(model(body, "float[4,16,8,8] x", "float[A,B] y", **parts))
    constant, *twice, product = report.layers
    assert (constant.kernel, constant.macs, constant.reason) == ("", 0, float_reasons.NO_NODE)
    assert sorted(layer.kernel for layer in twice) == ["", "Conv"]
    assert sorted(layer.macs for layer in twice) == [0, 4 * 16 * 64]
    assert product.macs == 4 * 1 * 4
    assert report.counts["none"] == 2


def test_layers_in_bodies():
    body = """y = If (c) <then_branch = t () => (float[A,B,C,D] p) { p = Conv (x, v) },
                          else_branch = e () => (float[A,B,C,D] q) { q = ConvTranspose (x, v) }>"""
    report = kernels(model(body, "bool c, float[1,16,8,8] x", v=(16, 16, 1, 1)))
    assert [(layer.op, layer.kernel, layer.macs) for layer in report.layers] == [
        ("Conv", "Conv", 16 * 16 * 64), ("ConvTranspose", "ConvTranspose", 16 * 16 * 64),
    ]  # fmt: skip


# -- multiplications


@pytest.mark.parametrize(
    ("body", "weight", "macs"),
    [
        ("Conv <pads = [1,1,1,1]> (x, v)", (8, 16, 3, 3), 8 * 64 * 16 * 9),
        ("Conv <strides = [2,2]> (x, v)", (8, 16, 2, 2), 8 * 16 * 16 * 4),
        ("Conv <group = 16, pads = [1,1,1,1]> (x, v)", (32, 1, 3, 3), 32 * 64 * 9),
        ("ConvTranspose <strides = [2,2]> (x, v)", (16, 8, 2, 2), 16 * 64 * 8 * 4),
        ("ConvTranspose <group = 2> (x, v)", (16, 4, 3, 3), 16 * 64 * 4 * 9),
        ("MatMul (x, v)", (8, 5), 16 * 8 * 8 * 5),
        ("MatMul (x, v)", (16, 8, 5), 16 * 8 * 8 * 5),
        ("MatMul (x, v)", (8,), 16 * 8 * 8),
    ],
)
def test_multiplications(body, weight, macs):
    assert kernels(model(f"y = {body}", outputs="float y", v=weight)).layers[0].macs == macs


def test_free_axes_leave_layers_without_a_count_unless_they_are_given():
    built = model("a = Conv (x, v) p = GlobalAveragePool (a) f = Flatten (p) y = Gemm <transB = 1> (f, u)",
                  "float[N,16,H,W] x", "float[N,5] y", v=(8, 16, 1, 1), u=(5, 8))  # fmt: skip
    report = kernels(built)
    assert [layer.macs for layer in report.layers] == [None, 40]
    assert (report.without_macs, report.share) == (1, 0)
    assert [layer.macs for layer in kernels(built, {"x": (2, 16, 4, 4)}).layers] == [2 * 16 * 8 * 16, 80]


def test_no_layers_no_share():
    report = kernels(model("y = Relu (x)"))
    assert (report.layers, report.share) == ((), None)


def test_the_share_weighs_layers_by_their_multiplications():
    body = f"{X} {W} a = Conv (xd, wd) {Y.replace('y =', 'b =')} y = Conv (b, v)"
    report = kernels(conv(body, v=(3, 16, 1, 1)))
    assert report.share == pytest.approx(16 / 19)
    assert report.counts == {"QLinearConv": 1, "Conv": 1}


# -- the report and the model


def test_a_layer_is_called_by_its_name_or_by_what_it_writes():
    built = model("a = Conv (x, v) y = Conv (a, v)", v=(16, 16, 1, 1))
    built.graph.node[0].name = "first"
    assert [layer.node for layer in kernels(built).layers] == ["first", "y"]


def test_the_report_is_json():
    data = json.loads(json.dumps(kernels(conv(f"{X} {W} a = Conv (xd, wd) {Y}")).to_json()))
    assert data["layers"][0]["kernel"] == "QLinearConv"
    assert data["share"] == 1


def test_the_model_stays_as_it_was_also_when_its_weights_are_written_apart(monkeypatch):
    built = model("a = Conv (x, v) y = Relu (a)", v=(64, 16, 3, 3))
    before = built.SerializeToString(deterministic=True)
    whole = kernels(built)
    monkeypatch.setattr(module, "SERIALIZED_LIMIT", 0)
    assert kernels(built) == whole
    assert built.SerializeToString(deterministic=True) == before


def test_a_model_that_the_runtime_refuses():
    built = model("y = Relu (x)")
    built.graph.node[0].op_type = "Unheard"
    with pytest.raises(OnnxdfqError, match="refuses"):
        kernels(built)
