"""Blocked 4-bit weights: what a product computes with them, on which kernel, and in how many bytes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, numpy_helper, version_converter

from passes.base import run_passes
from passes.block_int4 import BlockInt4, in_blocks
from passes.placement import place
from passes.stored_weights import stored_weights
from passes.targets import TENSORRT
from tests.passes.conftest import canonical, kernels, model_of, run, session

RNG = np.random.default_rng(9)


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def blocked(model, **options):
    graph = canonical(model)
    result = run_passes(graph, [BlockInt4(**options)])[0]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, result


def values(model, name):
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


LAYERS = {  # text, shape of the weights, whether they are stored transposed
    "MatMul": ("g (float[N,256] x) => (float[N,32] y) { y = MatMul (x, w) }", (256, 32)),
    "MatMul of stacks": ("g (float[2,N,256] x) => (float[2,N,32] y) { z = MatMul (x, w) y = Add (z, b) }", (256, 32)),
    "Gemm": ("g (float[N,256] x) => (float[N,32] y) { y = Gemm (x, w, b) }", (256, 32)),
    "Gemm without bias": ("g (float[N,256] x) => (float[N,32] y) { y = Gemm (x, w) }", (256, 32)),
    "Gemm of torch": ("g (float[N,256] x) => (float[N,32] y) { y = Gemm <transB = 1> (x, w, b) }", (32, 256)),
}


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_product_runs_on_4_bit_weights_and_agrees_with_numpy(layer, block, tmp_path):
    text, shape = LAYERS[layer]
    bias = {"b": random(32)} if ", b)" in text else {}
    model = model_of(text, w=random(*shape), **bias)
    after, result = blocked(model, block=block)
    assert (result.changed, result.skips) == (1, ())
    assert after.opset_import[0].version == 21
    assert kernels(after, tmp_path)["MatMulNBits"] == 1

    matrix = values(model, "w").T if "transB" in text else values(model, "w")
    codes, scale = in_blocks(matrix, block)
    x = random(2, 3, 256) if "stacks" in layer else random(3, 256)
    expected = x @ (codes * np.repeat(scale, block, 0)) + bias.get("b", 0)
    np.testing.assert_allclose(run(after, x)[0], expected, rtol=1e-4, atol=1e-4)
    fused = session(after, tmp_path / "fused.onnx").run(None, {"x": x})[0]  # rounds its input to 8 bits
    assert np.abs(fused - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(run(model, x)[0] - expected).max() < 0.3 * np.abs(expected).max()


def test_before_and_after():
    text, shape = LAYERS["Gemm of torch"]
    after, _ = blocked(model_of(text, w=random(*shape), b=random(32)))
    dequantize, gemm = after.graph.node
    kinds = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in after.graph.initializer}
    assert [kinds[name] for name in dequantize.input] == [(TensorProto.INT4, (256, 32)), (TensorProto.FLOAT, (2, 32))]
    assert {entry.name: entry.i for entry in dequantize.attribute} == {"axis": 0, "block_size": 128}
    assert gemm.input[1] == dequantize.output[0]
    assert not any(entry.name == "transB" and entry.i for entry in gemm.attribute)
    assert [(each.container, each.size) for each in stored_weights(gs.import_onnx(after))] == [("INT4", 256 * 32 // 2)]


def test_codes_and_scales():
    matrix = RNG.standard_normal((128, 6)).astype(np.float32)
    matrix[:64, 0] = 0
    matrix[64:, 1] *= 1e-3
    codes, scale = in_blocks(matrix, 64)
    assert (codes.shape, scale.shape) == ((128, 6), (2, 6))
    assert (scale > 0).all()
    assert not codes[:64, 0].any()
    assert np.abs(codes).reshape(2, 64, 6).max(1)[:, 1:].min() == np.abs(codes).max() == 7
    assert (np.abs(codes * np.repeat(scale, 64, 0) - matrix) <= np.repeat(scale, 64, 0) * 0.5001).all()


LEFT_ALONE = {
    "y = MatMul (x, k)": "its second operand is computed, or both are constant",
    "y = MatMul (w, v)": "its second operand is computed, or both are constant",
    "y = MatMul (x, stack)": "its weights are float32 of 3 axes, not a float32 matrix",
    "y = Gemm <alpha = 0.5> (x, w)": "it scales or transposes its operands (alpha, beta, transA)",
    "y = Gemm <transA = 1> (x, w)": "it scales or transposes its operands (alpha, beta, transA)",
    "s = Slice (x, none, few, last) y = MatMul (s, odd)": "96 input channels are no multiple of the block of 64",
    "y = MatMul (x, thin)": "31 output channels: two have to share a byte",
    "y = MatMul (x, broken)": "its weights hold NaN or infinity",
}
VALUES = {"w": random(128, 128), "v": random(128, 128), "stack": random(1, 128, 4), "odd": random(96, 4),
          "thin": random(128, 31), "none": np.array([0]), "few": np.array([96]), "last": np.array([1]),
          "broken": np.full((128, 4), np.inf, np.float32)}  # fmt: skip


@pytest.mark.parametrize("body", LEFT_ALONE)
def test_a_layer_that_stays_in_float_says_why(body):
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    rank = 3 if "stack" in words else 2
    text = f"g (float[128,128] x) => (float[{','.join('ABC'[:rank])}] y) {{ k = Relu (x) {body} }}"
    graph = canonical(model_of(text, **{name: value for name, value in VALUES.items() if name in words}))
    result = run_passes(graph, [BlockInt4(64)])[0]
    assert (result.changed, [skip.reason for skip in result.skips]) == (0, [LEFT_ALONE[body]])
    assert graph.opset == 17


PERCEPTRON = """g (float[N,128] x) => (float[N,10] y) {
    [one] a = Gemm <transB = 1> (x, u) r = Relu (a) [two] b = Gemm (r, v) [three] y = Gemm (b, w)
}"""
SIZED = {"u": random(64, 128), "v": random(64, 64), "w": random(64, 10)}


def test_only_the_layers_that_are_named():
    after, result = blocked(model_of(PERCEPTRON, **SIZED), block=64, layers={"two"})
    assert (result.changed, result.skips) == (1, ())
    assert [each.layer for each in stored_weights(gs.import_onnx(after))] == ["two"]


def test_what_is_in_blocks_is_not_quantized_again():
    after, _ = blocked(model_of(PERCEPTRON, **SIZED), block=64, layers={"one", "two"})
    assert {site.layer for site in place(gs.import_onnx(after), TENSORRT).weights.values()} == {"three"}


def test_an_opset_out_of_reach(monkeypatch):
    def refuse(model, version):
        raise RuntimeError("no")

    monkeypatch.setattr(version_converter, "convert_version", refuse)
    after, result = blocked(model_of(PERCEPTRON, **SIZED), block=64)
    assert result.changed == 0
    assert [skip.node for skip in result.skips] == ["one", "two", "three"]
    assert result.skips[0].reason == "opset 17 can't be raised to 21: no"
    assert [node.op_type for node in after.graph.node] == ["Gemm", "Relu", "Gemm", "Gemm"]


def test_names_that_are_taken():
    text = "g (float[N,64] x) => (float[N,64] y) { w_scale = Relu (x) y = MatMul (w_scale, w) }"
    model = model_of(text, w=random(64, 64))
    after, result = blocked(model, block=64)
    assert result.changed == 1
    session(after)
