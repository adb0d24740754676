"""In float16 a model computes what it did, nearly, with the interface it had and nothing that float16 cannot hold."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, numpy_helper, version_converter

from passes.base import run_passes
from passes.block_int4 import BlockInt4
from passes.float16 import Float16, half_scale, half_values
from passes.freeze_weights import FreezeBiases, FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.placement import place
from passes.plan import decide
from passes.targets import ORT_CPU, TENSORRT
from tests.passes.conftest import canonical, interface, kernels, model_of, run

RNG = np.random.default_rng(12)
SMALLEST = 2.0**-24


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def halved(model, **options):
    graph = canonical(model)
    result = run_passes(graph, [Float16(**options)])[0]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, result


def quantized(text, opset=17, target=TENSORRT, **initializers):
    graph = canonical(model_of(text, opset, **initializers))
    plan = decide(graph, dict.fromkeys(place(graph, target).tensors, (-4.0, 4.0)), target)
    run_passes(graph, [InsertQDQ(plan), FreezeBiases(target.int32_bias_written), FreezeWeights()])
    return gs.export_onnx(graph)


def types(model):
    """The type of every initializer, input, output and inferred tensor by name."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for entry in (*inferred.input, *inferred.output, *inferred.value_info):
        found[entry.name] = entry.type.tensor_type.elem_type
    return {name: TensorProto.DataType.Name(kind) for name, kind in found.items()}


def in_half(model):
    """Operators whose first float output is float16."""
    kinds = types(model)
    return {node.op_type for node in model.graph.node if kinds.get(node.output[0]) == "FLOAT16"} - {"Cast"}


IMAGE = "float[2,8,6,6]"
NODES = {  # what stands between two layers, and the operators of it that have to be in float16
    "Relu": ("c = Relu (a)", {"Relu"}),
    "Clip": ("c = Clip (a, low, high)", {"Clip"}),
    "a power": ("c = Pow (a, two)", {"Pow"}),
    "Softmax": ("c = Softmax <axis = 1> (a)", {"Softmax"}),
    "ReduceMean": ("m = ReduceMean <axes = [2,3], keepdims = 1> (a) c = Sub (a, m)", {"ReduceMean", "Sub"}),
    "LayerNormalization": ("c = LayerNormalization <axis = -1> (a, gamma, beta)", {"LayerNormalization"}),
    "statistics of LayerNormalization": (
        "n, m, s = LayerNormalization <axis = -1> (a, gamma, beta) c = Mul (n, s)", {"LayerNormalization", "Mul"}
    ),
    "BatchNormalization": ("c = BatchNormalization (a, v, v, v, positive)", {"BatchNormalization"}),
    "Where": ("t = Greater (a, low) c = Where (t, a, two)", {"Where"}),
    "a mask of infinities": ("m = Where (mask, low, endless) n = Add (a, m) c = Softmax <axis = 3> (n)", {"Add"}),
    "Resize": ("u = Resize <mode = \"linear\"> (a, , twice) c = MaxPool <kernel_shape = [2,2], strides = [2,2]> (u)",
               {"Resize", "MaxPool"}),
    "Resize of a region": (
        """c = Resize <coordinate_transformation_mode = "tf_crop_and_resize", mode = "linear"> (a, region, once)""",
        {"Resize"},
    ),
    "Concat": ("s, t = Split <axis = 1> (a) c = Concat <axis = 1> (t, s)", {"Split", "Concat"}),
    "types inside": ("b = Cast <to = 9> (a) i = Cast <to = 7> (b) f = Cast <to = 1> (i) c = Mul (a, f)", {"Mul"}),
    "double": ("d = Cast <to = 11> (a) e = Exp (d) c = Cast <to = 1> (e)", set()),
    "sizes": (
        """s = Shape (a) e = Gather (s, last) f = Cast <to = 1> (e) r = Sqrt (f) k = Div (a, r)
           n = Reciprocal (r) c = Mul (k, n)""",
        {"Div", "Mul"},
    ),
    "counting": (
        "s = Size (a) f = Cast <to = 1> (s) r = Range (low0, f, step) m = ReduceMax (r) c = Div (a, m)", {"Div"}
    ),
    "a constant branch": (
        "k = Transpose <perm = [1,0]> (table) l = Reshape (k, row) c = Add (a, l)", {"Transpose", "Add"}
    ),
    "a choice": (
        """q = ReduceSum <keepdims = 0> (a) t = Greater (q, low) c = If (t) <
            then_branch = yes () => (float[2,8,6,6] p) { p = Mul (a, two) },
            else_branch = no () => (float[2,8,6,6] n) { o = Add (a, high) n = Neg (o) }
        >""",
        set(),
    ),
    "boxes": (
        """b = Reshape (a, boxes) s = Transpose <perm = [0,2,1]> (b) t = Slice (s, from0, to1, at1)
           i = NonMaxSuppression (b, t, ten) f = Cast <to = 1> (i) m = ReduceMax (f) c = Add (a, m)""",
        {"Reshape", "Add", "ReduceMax"},
    ),
}  # fmt: skip
OPERANDS = {
    "low": np.float32(-0.5), "high": np.float32(0.75), "two": np.float32(2), "gamma": random(6), "beta": random(6),
    "v": random(8), "positive": np.abs(random(8)) + 1, "mask": RNG.random((2, 8, 6, 6)) < 0.7,
    "endless": np.float32(-np.inf), "twice": np.float32([1, 1, 2, 2]), "once": np.float32([1, 1, 1, 1]),
    "region": np.float32([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9]), "last": np.array(3), "low0": np.float32(0),
    "step": np.float32(1), "table": random(6, 8), "row": np.array([8, 1, 6]), "boxes": np.array([2, -1, 4]),
    "from0": np.array([0]), "to1": np.array([1]), "at1": np.array([1]), "ten": np.array([10]),
}  # fmt: skip


@pytest.mark.parametrize("case", NODES)
def test_what_stands_between_layers(case):
    body, halves = NODES[case]
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    held = {name: value for name, value in OPERANDS.items() if name in words}
    text = f"g ({IMAGE} x) => (float[2,4,6,6] y) {{ a = Conv (x, first, bias) {body} y = Conv (c, second) }}"
    model = model_of(text, first=random(8, 8, 1, 1), bias=random(8), second=random(4, 8, 1, 1), **held)
    after, result = halved(model)
    assert result.changed >= 2
    assert halves | {"Conv"} <= in_half(after)
    assert interface(after) == interface(model)
    kinds = types(after)
    assert (kinds["x"], kinds["y"]) == ("FLOAT", "FLOAT")
    x = random(2, 8, 6, 6)
    expected = run(model, x)[0]
    assert np.abs(run(after, x)[0] - expected).max() <= 0.01 * np.abs(expected).max()


LAYERS = {
    "Conv": (f"g ({IMAGE} x) => (float[A,B,C,D] y) {{ a = Conv (x, w, b) y = Relu (a) }}", (16, 8, 3, 3), (16,)),
    "Gemm": ("g (float[N,32] x) => (float[N,16] y) { y = Gemm <transB = 1> (x, w, b) }", (16, 32), (16,)),
    "MatMul": ("g (float[N,5,32] x) => (float[N,5,16] y) { a = MatMul (x, w) y = Add (a, b) }", (32, 16), (16,)),
    "ConvTranspose": (f"g ({IMAGE} x) => (float[A,B,C,D] y) {{ y = ConvTranspose (x, w, b) }}", (8, 16, 2, 2), (16,)),
}


@pytest.mark.parametrize("opset", [13, 17, 19, 23])
@pytest.mark.parametrize("layer", LAYERS)
def test_quantized_layers(layer, opset):
    text, weights, bias = LAYERS[layer]
    text = text.replace("[2,8,6,6]", "[2,16,6,6]")
    if layer.startswith("Conv"):
        weights = (16, 16, *weights[2:])
    model = quantized(text, opset, w=random(*weights), b=random(*bias))
    after, result = halved(model)
    assert result.skips == ()
    assert after.opset_import[0].version == max(opset, 19)
    kinds = types(after)
    for node in after.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert kinds[node.input[1]] == "FLOAT16"
            assert kinds[node.output[0]] == ("INT8" if node.op_type == "QuantizeLinear" else "FLOAT16")
    assert set(kinds.values()) <= {"FLOAT16", "INT8"} | {kinds[name] for name in ("x", "y")}
    shape = [entry.dim_value or 3 for entry in model.graph.input[0].type.tensor_type.shape.dim]
    x = random(*shape)
    expected = run(model, x)[0]
    assert np.abs(run(after, x)[0] - expected).max() <= 0.03 * np.abs(expected).max()  # a code may round the other way


def test_before_and_after():
    model = quantized(LAYERS["Gemm"][0], 17, w=random(16, 32), b=random(16))
    after, _ = halved(model)
    before, now = ([node.op_type for node in each.graph.node] for each in (model, after))
    assert before == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Gemm"]
    assert sorted(now) == sorted([*before, "Cast", "Cast"])
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in after.graph.initializer:  # under their names of before
        expected = held[tensor.name]
        np.testing.assert_array_equal(
            numpy_helper.to_array(tensor), expected.astype(np.float16) if expected.dtype == np.float32 else expected
        )


TWO_ENDS = """g (float[N,8] x, int64[N,8] i) => (float[N,8] a, float[N,4] y, int64[N,8] j) {
    a = Relu (x) y = MatMul (a, w) j = Neg (i)
}"""


def test_inputs_and_outputs_in_float16_when_asked_for():
    model = model_of(TWO_ENDS, w=random(8, 4))
    after, _ = halved(model, keep_io=False)
    assert interface(after) == interface(model)
    kinds = types(after)
    assert [kinds[name] for name in "xiayj"] == ["FLOAT16", "INT64", "FLOAT16", "FLOAT16", "INT64"]
    assert not any(node.op_type == "Cast" for node in after.graph.node)
    x, i = random(3, 8), np.ones((3, 8), np.int64)
    for ours, theirs in zip(run(after, x.astype(np.float16), i), run(model, x, i), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.01, atol=0.01)


def test_an_output_that_is_read_inside_keeps_its_name_and_type():
    model = model_of(TWO_ENDS, w=random(8, 4))
    after, _ = halved(model)
    assert interface(after) == interface(model)
    kinds = types(after)
    assert [kinds[name] for name in "xiayj"] == ["FLOAT", "INT64", "FLOAT", "FLOAT", "INT64"]
    x, i = random(3, 8), np.ones((3, 8), np.int64)
    for ours, theirs in zip(run(after, x, i), run(model, x, i), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("keep_io", [True, False])
def test_outputs_of_nodes_that_stay_in_float32(keep_io):
    text = "g (float[N,8] x) => (float y) { s = Shape (x) f = Cast <to = 1> (s) y = ReduceMax <keepdims = 0> (f) }"
    model = model_of(text)
    after, _ = halved(model, keep_io=keep_io)
    assert types(after)["y"] == ("FLOAT" if keep_io else "FLOAT16")
    x = random(2049, 8).astype(np.float32 if keep_io else np.float16)
    assert run(after, x)[0] == (2049 if keep_io else 2048)  # float16 holds no 2049


def test_a_constant_that_is_read_in_both_types():
    text = """g (float[1,1,4,4] x) => (float[A,B,C,D] y) {
        u = Resize <mode = "nearest"> (x, , k) r = Reshape (k, s) y = Mul (u, r)
    }"""
    model = model_of(text, k=np.float32([1, 1, 2, 2]), s=np.array([1, 4, 1, 1]))
    after, _ = halved(model)
    kinds = types(after)
    resize = next(node for node in after.graph.node if node.op_type == "Resize")
    reshape = next(node for node in after.graph.node if node.op_type == "Reshape")
    assert (kinds[resize.input[2]], kinds[reshape.input[0]]) == ("FLOAT", "FLOAT16")
    x = random(1, 1, 4, 4)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=0.01, atol=0.001)


def test_integer_biases_keep_their_scale():
    model = quantized(LAYERS["Gemm"][0], 17, ORT_CPU, w=random(16, 32) * 1e-3, b=random(16))
    after, _ = halved(model)
    kinds = types(after)
    nodes = [node for node in after.graph.node if node.op_type == "DequantizeLinear"]
    scales = {kinds[node.input[0]]: kinds[node.input[1]] for node in nodes}
    assert scales == {"UINT8": "FLOAT16", "INT8": "FLOAT16", "INT32": "FLOAT"}
    x = random(3, 32)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=0.01, atol=0.01)


def test_weights_in_blocks_of_4_bits(tmp_path):
    graph = canonical(model_of("g (float[N,128] x) => (float[N,16] y) { y = Gemm (x, w, b) }", w=random(128, 16),
                               b=random(16)))  # fmt: skip
    run_passes(graph, [BlockInt4(64)])
    model = gs.export_onnx(graph)
    after, result = halved(model)
    assert (result.changed, result.skips) == (2, ())
    dequantize = next(node for node in after.graph.node if node.op_type == "DequantizeLinear")
    assert [types(after)[name] for name in (*dequantize.input, *dequantize.output)] == ["INT4", "FLOAT16", "FLOAT16"]
    assert kernels(after, tmp_path)["MatMulNBits"] == 1
    x = random(3, 128)
    expected = run(model, x)[0]
    assert np.abs(run(after, x)[0] - expected).max() <= 0.01 * np.abs(expected).max()


# -- what float16 cannot hold


@pytest.mark.parametrize(
    ("values", "expected", "notice"),
    [
        ([1.5, -2], [1.5, -2], ""),
        ([1e6, -3.4e38, 65519], [65504, -65504, 65504], "3 of 3 values are beyond float16 and were cut to 65504"),
        ([np.inf, -np.inf], [np.inf, -np.inf], ""),
        ([1e-12, 1], [0, 1], "1 of 2 values are below float16 and became 0"),
        (1e-12, SMALLEST, "1e-12 is below float16 and was raised to 5.96e-08"),
        (-1e-12, -SMALLEST, "-1e-12 is below float16 and was raised to 5.96e-08"),
        ([0.0, 0.0], [0, 0], ""),
    ],
)
def test_values(values, expected, notice):
    half, told = half_values(np.float32(values))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, np.float16(expected))
    assert told == notice


def test_scales():
    scale = np.float32([1e-10, 1e-7, 7e-8, 2e-5, 0.001, 3.0, 1e6])
    half, told = half_scale(scale)
    assert (half > 0).all()
    assert (half[1:4] >= scale[1:4]).all()  # subnormal: rounded up
    np.testing.assert_allclose(half[4:6], scale[4:6], rtol=2**-11)
    assert half[[0, -1]].tolist() == [SMALLEST, 65504]
    assert told == (
        "1 of 7 scales are below float16 and were raised to 6e-08; "
        "1 of 7 scales are beyond float16 and were cut to 65504"
    )


def test_codes_follow_a_scale_that_had_to_change():
    weights = random(16, 32)
    weights[3], weights[5] = 0, random(32) * 1e-7  # scales of 1e-10 and 2e-9
    model = quantized(LAYERS["Gemm"][0], 17, w=weights, b=random(16))
    after, result = halved(model)
    told = r"w_quantized: \d+ of 512 codes were rounded again, for a scale that float16 can hold"
    assert [bool(re.fullmatch(told, skip.reason)) for skip in result.skips] == [True]
    codes = next(numpy_helper.to_array(each) for each in after.graph.initializer if each.data_type == TensorProto.INT8
                 and each.dims == [16, 32])  # fmt: skip
    scale = next(numpy_helper.to_array(each) for each in after.graph.initializer if each.dims == [16]
                 and each.data_type == TensorProto.FLOAT16 and (numpy_helper.to_array(each) > 0).all())  # fmt: skip
    assert np.abs(codes * scale[:, None].astype(np.float32) - weights).max() <= scale.max()
    assert np.abs(codes[5]).max() <= 6
    x = random(3, 32)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=0.03, atol=0.03)


def test_the_scale_of_an_activation_is_raised_and_told():
    graph = canonical(model_of("g (float[N,32] x) => (float[N,16] y) { y = MatMul (x, w) }", w=random(32, 16)))
    plan = decide(graph, {"x": (-1e-8, 1e-8)}, TENSORRT)
    run_passes(graph, [InsertQDQ(plan), FreezeWeights()])
    after, result = halved(gs.export_onnx(graph))
    assert [(skip.node, skip.rule) for skip in result.skips] == [("x_Q", "float16")]
    assert result.skips[0].reason == "x_scale: 1 of 1 scales are below float16 and were raised to 6e-08"
    assert np.isfinite(run(after, random(2, 32))[0]).all()


def test_constants_that_are_cut_are_told():
    after, result = halved(model_of("g (float[N,8] x) => (float[N,8] y) { a = Clip (x, l, h) y = Add (a, e) }",
                                    l=np.float32(-3.4e38), h=np.float32(1), e=np.float32(1e-12)))  # fmt: skip
    assert [(skip.node, skip.rule, skip.reason) for skip in result.skips] == [
        ("Clip_a", "float16", "l: 1 of 1 values are beyond float16 and were cut to 65504"),
        ("Add_y", "float16", "e: 1e-12 is below float16 and was raised to 5.96e-08"),
    ]
    x = random(3, 8)
    np.testing.assert_allclose(run(after, x)[0], np.minimum(x, 1), atol=0.01)


# -- why a model stays as it is


def test_an_opset_out_of_reach(monkeypatch):
    def refuse(model, version):
        raise RuntimeError("no")

    model = quantized(LAYERS["Gemm"][0], 17, w=random(16, 32), b=random(16))
    monkeypatch.setattr(version_converter, "convert_version", refuse)
    after, result = halved(model)
    assert result.changed == 0
    assert [skip.reason for skip in result.skips] == ["the model stays in float32: opset 17 can't be raised to 19: no"]
    assert after.SerializeToString() == gs.export_onnx(canonical(model)).SerializeToString()


def test_types_that_are_not_written_are_found():
    model = model_of("g (float[N,8] x) => (float[N,8] y) { a = Relu (x) y = Neg (a) }")
    del model.graph.value_info[:]
    after, result = halved(model)
    assert (result.changed, result.skips) == (2, ())
    assert in_half(after) == {"Relu", "Neg"}


def test_types_that_do_not_follow():
    graph = canonical(model_of("g (float[N,8] x) => (float[N,8] y) { a = Relu (x) y = Neg (a) }"))
    graph.nodes[0].op, graph.nodes[0].domain, graph.nodes[0].outputs[0].dtype = "Secret", "somewhere", None
    graph.nodes[0].outputs[0].shape = None
    result = run_passes(graph, [Float16()])[0]
    assert [skip.reason for skip in result.skips] == ["the model stays in float32: the type of a is not known"]


def test_operators_of_other_domains_stay_in_float32():
    graph = canonical(model_of("g (float[N,8] x) => (float[N,8] y) { a = Relu (x) b = Elu (a) y = Neg (b) }"))
    graph.nodes[1].op, graph.nodes[1].domain = "Gelu", "com.microsoft"
    result = run_passes(graph, [Float16()])[0]
    model = gs.export_onnx(graph)
    assert result.changed == 2
    assert [node.op_type for node in model.graph.node] == ["Cast", "Relu", "Cast", "Gelu", "Cast", "Neg", "Cast"]
    run(model, random(2, 8))
