"""What a channel never falls below moves into the next layer, and the output stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.absorb_bias import AbsorbHighBias
from passes.fold_batchnorm import ChannelStats
from tests.passes.conftest import canonical, model_of, run

RNG = np.random.default_rng(8)
MEAN, STD = np.array([10.0, 1.0, 7.0, -9.0]), np.array([1.0, 1.0, 2.0, 0.1])  # absorbed: 7, 0, 1, 0
SIZES = {
    "w": (4, 3, 1, 1), "u": (4, 4, 3, 3), "d": (4, 1, 3, 3), "t": (4, 2, 2, 2), "m": (3, 4), "k": (4, 5), "v": (4,),
    "g": (6, 2, 3, 3), "c": (5,),
}  # fmt: skip
HIGH = "a = Conv (x, w, high)"


def absorbed(body, shape="2,3,6,6", tensor="a", outputs=""):
    """The model, the model after the pass, its result, and the statistics of what the layer writes."""
    used = {
        name: 0.3 * RNG.standard_normal(size).astype(np.float32)
        for name, size in SIZES.items()
        if f"{name})" in body or f"{name}," in body
    }
    # Inputs up to 1 and weights as small as these keep the first channel above 7, and the third above 1.
    used |= {"high": np.array([10, 1, 7, -9], np.float32)} if "high" in body else {}
    rank = 2 if "Gemm" in body else len(shape.split(","))
    model = model_of(f"g (float[{shape}] x) => (float[{','.join('ABCD'[:rank])}] y{outputs}) {{ {body} }}", **used)
    graph, statistics = canonical(model), {tensor: ChannelStats(MEAN, STD)}
    result = AbsorbHighBias(statistics)(graph)
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after)
    return model, after, result, statistics[tensor]


def same(model, after, shape):
    x = RNG.uniform(-1, 1, shape).astype(np.float32)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-4)


ABSORBS = {
    "conv": (f"{HIGH} r = Relu (a) y = Conv (r, u, v)", "2,3,6,6"),
    "two readers": (f"{HIGH} r = Relu (a) b = Conv (r, u, v) e = Conv (r, u) y = Add (b, e)", "2,3,6,6"),
    "grouped": (f"{HIGH} r = Relu (a) y = Conv <group = 2> (r, g)", "2,3,6,6"),
    "depthwise": (f"{HIGH} r = Relu (a) y = Conv <group = 4> (r, d, v)", "2,3,6,6"),
    "gemm": ("a = Gemm (x, m, high) r = Relu (a) y = Gemm <alpha = 0.5, beta = 2.0> (r, k, c)", "2,3"),
    "matmul": ("p = MatMul (x, m) a = Add (p, high) r = Relu (a) q = MatMul (r, k) y = Add (q, c)", "2,3,3"),
}


@pytest.mark.parametrize("case", ABSORBS)
def test_the_output_stays_and_the_mean_moves(case):
    body, shape = ABSORBS[case]
    model, after, result, statistics = absorbed(body, shape)
    assert (result.changed, result.skips) == (1, ())
    np.testing.assert_array_equal(statistics.mean, [3, 1, 6, -9])
    np.testing.assert_array_equal(statistics.std, STD)
    same(model, after, [int(size) for size in shape.split(",")])


def test_the_bias_moves_into_a_normalization_that_is_kept():
    body = "a = Conv (x, w) n = BatchNormalization (a, one, high, zero, one) r = Relu (n) y = Conv (r, u, v)"
    body = body.replace("a = Conv", "one = Constant <value = float[4] {1,1,1,1}> () "
                        "zero = Constant <value = float[4] {0,0,0,0}> () a = Conv")  # fmt: skip
    model, after, result, _ = absorbed(body, tensor="n")
    assert result.changed == 1
    same(model, after, (2, 3, 6, 6))


def test_low_biases_and_unknown_statistics_change_nothing():
    assert absorbed(f"{HIGH} r = Relu (a) y = Conv (r, u, v)", tensor="r")[2].changed == 0
    graph = canonical(absorbed(f"{HIGH} r = Relu (a) y = Conv (r, u, v)")[0])
    result = AbsorbHighBias({"a": ChannelStats(MEAN, 10 * STD)})(graph)
    assert (result.changed, result.skips) == (0, ())


STAYS = {
    "padding": (f"{HIGH} r = Relu (a) y = Conv <pads = [1,1,1,1]> (r, u)", "Conv_y, which reads it, pads with zeros"),
    "automatic padding": (f'{HIGH} r = Relu (a) y = Conv <auto_pad = "SAME_UPPER"> (r, u)',
                          "Conv_y, which reads it, pads with zeros"),
    "transposed": (f"{HIGH} r = Relu (a) y = ConvTranspose (r, t)",
                   "ConvTranspose_y, which reads it, is transposed: its borders see fewer weights"),
    "not rectified": (f"{HIGH} r = LeakyRelu (a) y = Conv (r, u)", "its output is not rectified by a Relu alone"),
    "used twice": (f"{HIGH} r = Relu (a) b = Conv (a, u) e = Conv (r, u) y = Add (b, e)",
                   "its output is not rectified by a Relu alone"),
    "pool": (f"{HIGH} r = Relu (a) p = MaxPool <kernel_shape = [2,2]> (r) y = Conv (p, u)",
             "MaxPool_p (MaxPool) lies between it and the layer that would absorb"),
    "residual": (f"{HIGH} r = Relu (a) s = Conv (x, w) o = Add (r, s) y = Conv (o, u)",
                 "its channels meet those of another branch in Add_o"),
    "nowhere in the reader": ("a = Conv (x, w, high) r = Relu (a) q = Transpose <perm = [0,2,3,1]> (r) "
                              "y = MatMul (q, k)", "Transpose_q (Transpose) lies between it and the layer that would "
                              "absorb"),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_what_absorbs_nothing_says_why(case):
    body, reason = STAYS[case]
    *_, result, statistics = absorbed(body)
    assert result.changed == 0
    assert [(skip.node, skip.rule) for skip in result.skips] == [("Conv_a", "absorb-high-bias")]
    assert result.skips[0].reason == reason
    np.testing.assert_array_equal(statistics.mean, MEAN)


def test_a_matrix_product_without_a_bias_neither_gives_nor_takes():
    *_, result, _ = absorbed("a = MatMul (x, m) r = Relu (a) y = MatMul (r, k)", "2,3,3")
    assert [skip.reason for skip in result.skips] == ["it has no place for a bias"]
    *_, result, _ = absorbed("p = MatMul (x, m) a = Add (p, high) r = Relu (a) y = MatMul (r, k)", "2,3,3")
    assert [skip.reason for skip in result.skips] == ["MatMul_y, which reads it, has no place for a bias"]
