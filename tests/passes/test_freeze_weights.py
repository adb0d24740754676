"""Integer weights are exactly what the runtime's own QuantizeLinear makes of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from passes.base import run_passes
from passes.freeze_weights import FreezeBiases, FreezeWeights, quantized
from tests.passes.conftest import model_of, run

RNG = np.random.default_rng(5)


def frozen(model):
    graph = gs.import_onnx(model)
    result = run_passes(graph, [FreezeWeights()])[0]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after)
    return after, result


def runtime_codes(weight, scale, zero, axis):
    """What QuantizeLinear of ONNX Runtime gives."""
    attribute = "" if axis is None else f"<axis = {axis}>"
    dims = ",".join(map(str, weight.shape))
    text = f"g (float[{dims}] w) => ({zero.dtype}[{dims}] q) {{ q = QuantizeLinear {attribute} (w, s, z) }}"
    return run(model_of(text, s=scale, z=zero), weight)[0]


def hard(shape, scale, axis):
    """Weights at random, on the ties of rounding, and far beyond the range of the codes."""
    size = [1] * len(shape)
    if axis is not None:
        size[axis] = -1
    steps = np.concatenate([RNG.uniform(-150, 150, 4000), np.arange(-200, 200) + 0.5, [0.0, -0.0, 1e9, -1e9]])
    return np.resize(steps.astype(np.float32), shape) * scale.reshape(size)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 10, 10, 10), 0), ((8, 10, 10, 10), 1), ((100, 60), 1), ((600, 9), None)]
)
def test_codes_equal_those_of_onnx_runtime_bit_for_bit(kind, shape, axis):
    size = () if axis is None else (shape[axis],)
    scale = RNG.uniform(0.001, 0.1, size).astype(np.float32)
    zero = np.full(size, 0 if kind == "int8" else 128, kind)
    for each in (zero, np.asarray(zero + RNG.integers(-9, 9, size)).astype(kind)):
        weight = hard(shape, scale, axis).astype(np.float32)
        codes = quantized(weight, scale, each, axis)
        assert codes.dtype == np.dtype(kind)
        np.testing.assert_array_equal(codes, runtime_codes(weight, scale, each, axis))


def test_the_axis_that_is_left_out_is_1():
    weight, scale, zero = (
        RNG.standard_normal((5, 5)).astype(np.float32),
        np.float32([1, 2, 3, 4, 5]) / 50,
        np.int8([0] * 5),
    )
    np.testing.assert_array_equal(quantized(weight, scale, zero, None), runtime_codes(weight, scale, zero, None))


QDQ = """g (float[N,6] x) => (float[N,4] y) {
    q = QuantizeLinear <axis = 1> (w, s, z) d = DequantizeLinear <axis = 1> (q, s, z) y = MatMul (x, d)
}"""


def given(**changed):
    scale = RNG.uniform(0.005, 0.03, 4).astype(np.float32)
    return {"w": RNG.standard_normal((6, 4)).astype(np.float32), "s": scale, "z": np.zeros(4, np.int8)} | changed


def test_weights_become_integers_and_the_model_computes_the_same_bit_for_bit():
    model = model_of(QDQ, **given())
    after, result = frozen(model)
    assert result.changed == 1
    assert [node.op_type for node in after.graph.node] == ["DequantizeLinear", "MatMul"]
    kinds = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    assert kinds[after.graph.node[0].input[0]] == onnx.TensorProto.INT8
    assert "w" not in kinds  # the float weights are gone
    x = RNG.standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(model, x)[0])


def test_quantizers_of_activations_stay():
    model = model_of("g (float[4] x) => (float[4] y) { q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
                     s=np.float32(0.1), z=np.int8(3))  # fmt: skip
    after, result = frozen(model)
    assert result.changed == 0
    assert [node.op_type for node in after.graph.node] == ["QuantizeLinear", "DequantizeLinear"]


def test_equal_weights_are_merged_and_different_ones_are_not():
    text = """g (float[N,4] x) => (float[N,4] y) {
        q = QuantizeLinear <axis = 1> (w, s, z) d = DequantizeLinear <axis = 1> (q, s, z) a = MatMul (x, d)
        p = QuantizeLinear <axis = 1> (v, s, z) e = DequantizeLinear <axis = 1> (p, s, z) b = MatMul (a, e)
        c = MatMul (b, k) f = MatMul (c, l) y = MatMul (f, m)
    }"""
    w, k = RNG.standard_normal((4, 4)).astype(np.float32), RNG.standard_normal((4, 4)).astype(np.float32)
    near = k.copy()
    near[2, 1] = np.nextafter(near[2, 1], np.float32(9))
    initializers = {"w": w, "v": w.copy(), "k": k, "l": k.copy(), "m": near} | {"s": np.float32([0.02] * 4),
                                                                               "z": np.zeros(4, np.int8)}  # fmt: skip
    model = model_of(text, **initializers)
    after, result = frozen(model)
    assert result.changed == 2
    reads = {node.output[0]: list(node.input) for node in after.graph.node}
    assert reads["d"][0] == reads["e"][0]  # frozen to the same codes
    assert reads["c"][1] == reads["f"][1] != reads["y"][1]
    assert sorted(len(tensor.dims) for tensor in after.graph.initializer if len(tensor.dims) == 2) == [2, 2, 2]
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(model, x)[0])


def test_the_same_bytes_in_another_shape_or_type_are_not_merged():
    zeros = np.zeros((2, 8), np.float32)
    model = model_of(
        """g (float[N,2] x) => (float[N,8] y, float[A,B] z, int32[A,B] i) {
            y = MatMul (x, w) z = Abs (v) i = Abs (k)
        }""",
        w=zeros, v=zeros.reshape(4, 4), k=zeros.view(np.int32),
    )  # fmt: skip
    after, _ = frozen(model)
    assert sorted((tensor.data_type, *tensor.dims) for tensor in after.graph.initializer) == [
        (onnx.TensorProto.FLOAT, 2, 8), (onnx.TensorProto.FLOAT, 4, 4), (onnx.TensorProto.INT32, 2, 8)
    ]  # fmt: skip


def test_scalars_and_vectors_stay_apart():
    after, _ = frozen(model_of(
        "g (float[N,4] x) => (float[N,4] y) { a = Mul (x, s) b = Mul (a, t) c = Add (b, u) y = Add (c, v) }",
        s=np.float32(2), t=np.float32(2), u=np.float32([1, 2, 3, 4]), v=np.float32([1, 2, 3, 4]),
    ))  # fmt: skip
    assert len(after.graph.initializer) == 4


# -- biases

GEMM = """g (float[N,6] x) => (float[N,4] y) {{
    p = QuantizeLinear (x, i, j) r = DequantizeLinear (p, i, j)
    q = QuantizeLinear <axis = {axis}> (w, s, z) d = DequantizeLinear <axis = {axis}> (q, s, z)
    y = Gemm <{attributes}> (r, d, b)
}}"""


def gemm(bias, attributes="transB = 0", axis=1):
    weight = RNG.standard_normal((6, 4) if axis else (4, 6)).astype(np.float32)
    more = {"i": np.float32(0.02), "j": np.uint8(128), "b": bias}
    return model_of(GEMM.format(attributes=attributes, axis=axis), **given(w=weight), **more)


def with_integer_biases(model, *ops):
    graph = gs.import_onnx(model)
    result = run_passes(graph, [FreezeBiases(frozenset(ops)), FreezeWeights()])[0]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after)
    return after, result.changed


@pytest.mark.parametrize(("attributes", "axis"), [("transB = 0", 1), ("transB = 1", 0)])
def test_biases_become_int32_at_the_scale_of_the_product(attributes, axis):
    bias = RNG.standard_normal(4).astype(np.float32)
    model = gemm(bias, attributes, axis)
    after, changed = with_integer_biases(model, "Gemm")
    assert changed == 1
    values = {each.name: numpy_helper.to_array(each) for each in after.graph.initializer}
    writer = {node.output[0]: node for node in after.graph.node}
    source = writer[next(node for node in after.graph.node if node.op_type == "Gemm").input[2]]
    codes, scale, zero = (values[name] for name in source.input)
    assert source.op_type == "DequantizeLinear"
    assert (codes.dtype, codes.shape, zero.tolist()) == (np.int32, (4,), [0] * 4)
    np.testing.assert_allclose(scale, 0.02 * values["s"], rtol=1e-6)
    assert np.abs(codes * scale - bias).max() <= scale.max() / 2 * 1.001
    x = RNG.standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], atol=float(scale.max()))


@pytest.mark.parametrize(
    ("bias", "attributes", "ops"),
    [((4,), "transB = 0", ("Conv",)), ((4,), "alpha = 2.0", ("Gemm",)), ((4,), "beta = 0.5", ("Gemm",)),
     ((1, 4), "transB = 0", ("Gemm",)), ((4,), "transB = 0", ())],
)  # fmt: skip
def test_other_biases_stay_in_float(bias, attributes, ops):
    model = gemm(np.ones(bias, np.float32), attributes)
    after, changed = with_integer_biases(model, *ops)
    assert changed == 0
    x = RNG.standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(model, x)[0])


def test_biases_of_float_layers_stay_in_float():
    bias = np.ones(4, np.float32)
    model = model_of("g (float[N,6] x) => (float[N,4] y) { y = Gemm (x, w, b) }", w=given()["w"], b=bias)
    assert with_integer_biases(model, "Gemm")[1] == 0


def test_one_number_for_all_channels_is_no_obstacle():
    model = gemm(np.ones(1, np.float32))
    x = RNG.standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_allclose(run(with_integer_biases(model, "Gemm")[0], x)[0], run(model, x)[0], atol=0.01)


def test_a_bias_beyond_int32_saturates():
    model = gemm(np.full(4, 1e9, np.float32))
    after, _ = with_integer_biases(model, "Gemm")
    assert run(after, np.zeros((1, 6), np.float32))[0].min() > 0
