"""Equalization changes ranges and nothing else: outputs stay, neighbours' ranges meet, statistics follow."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.base import run_passes
from passes.equalize import Equalize
from passes.fold_batchnorm import ChannelStats, FoldBatchNorm
from passes.layer_kernels import kernels_of
from tests.passes.conftest import canonical, model_of, run

RNG = np.random.default_rng(7)
SPREAD = 3  # channels differ by factors up to e^SPREAD
PAD = "pads = [1,1,1,1]"


def weights(*shape):
    """Weights whose channels are of very different sizes, on both sides."""
    values = RNG.standard_normal(shape)
    for axis in range(min(2, len(shape))):
        column = [-1 if k == axis else 1 for k in range(len(shape))]
        values = values * np.exp(RNG.uniform(-SPREAD, SPREAD, shape[axis]) / 2).reshape(column)
    return values.astype(np.float32)


def model(body, shape="2,4,8,8", **sizes):
    rank = sizes.pop("rank", 4)
    sizes = {name: weights(*size) if isinstance(size, tuple) else np.asarray(size) for name, size in sizes.items()}
    sizes = {name: np.abs(values) + 0.1 if name == "var" else values for name, values in sizes.items()}
    text = f"g (float[{shape}] x) => (float[{','.join('ABCD'[:rank])}] y) {{ {body} }}"
    return model_of(text, **sizes), RNG.standard_normal([int(size) for size in shape.split(",")]).astype(np.float32)


def equalized(given, **options):
    graph = canonical(given)
    result = Equalize(**options)(graph)
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after)
    return after, result, {node.name: node for node in graph.nodes}


def computes_the_same(given, after, x):
    for ours, theirs in zip(run(after, x), run(given, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


NORM = {"gamma": (6,), "beta": (6,), "mean": (6,), "var": (6,)}
SIX = {"zero": np.float32(0), "six": np.float32(6)}
MODELS = {
    "basic block": (f"a = Conv <{PAD}> (x, w1, b1) r = Relu (a) b = Conv <{PAD}> (r, w2) t = Add (b, x) y = Relu (t)",
                    {"w1": (6, 4, 3, 3), "b1": (6,), "w2": (4, 6, 3, 3)}, 1),
    "normalization kept": ("a = Conv (x, w1, b1) n = BatchNormalization (a, gamma, beta, mean, var) r = Relu (n) "
                           "y = Conv (r, w2)", {"w1": (6, 4, 1, 1), "b1": (6,), "w2": (4, 6, 3, 3)} | NORM, 1),
    "pools and a classifier": ("a = Conv (x, w1, b1) r = LeakyRelu (a) p = MaxPool <kernel_shape = [2,2]> (r) "
                               "b = Conv (p, w2, b2) q = GlobalAveragePool (b) f = Flatten (q) y = Gemm (f, w3)",
                               {"w1": (6, 4, 1, 1), "b1": (6,), "w2": (5, 6, 3, 3), "b2": (5,), "w3": (5, 3),
                                "rank": 2}, 2),
    "inverted residual": (f"a = Conv (x, w1, b1) r = Relu (a) d = Conv <group = 6, {PAD}> (r, wd, b2) q = Relu (d) "
                          "c = Conv (q, w2, b3) y = Add (c, x)",
                          {"w1": (6, 4, 1, 1), "b1": (6,), "wd": (6, 1, 3, 3), "b2": (6,), "w2": (4, 6, 1, 1),
                           "b3": (4,)}, 2),
    "several readers and concats": ("s = Conv (x, w1, b1) r = Relu (s) a = Conv (r, w2) b = Conv <pads = [1,1,1,1]> "
                                    "(r, w3, b3) c = Concat <axis = 1> (a, b) y = Conv (c, w4)",
                                    {"w1": (6, 4, 1, 1), "b1": (6,), "w2": (3, 6, 1, 1), "w3": (5, 6, 3, 3), "b3": (5,),
                                     "w4": (4, 8, 1, 1)}, 3),
    "groups": ("a = Conv <group = 2> (x, w1, b1) r = Relu (a) y = Conv <group = 3> (r, w2)",
               {"w1": (6, 2, 1, 1), "b1": (6,), "w2": (9, 2, 3, 3)}, 1),
    "transposed": ("a = ConvTranspose <group = 2> (x, w1, b1) r = Relu (a) y = ConvTranspose <group = 3> (r, w2)",
                   {"w1": (4, 3, 2, 2), "b1": (6,), "w2": (6, 2, 3, 3)}, 1),
    "zeros": ("a = Conv (x, w1, b1) r = Relu (a) y = Conv (r, w2)",
              {"w1": np.zeros((6, 4, 1, 1), np.float32), "b1": (6,), "w2": (4, 6, 1, 1)}, 1),
}  # fmt: skip
MATRICES = {
    "gemm": ("a = Gemm <beta = 0.5, transB = 1> (x, w1, b1) r = Relu (a) y = Gemm (r, w2)",
             "3,4", {"w1": (6, 4), "b1": (1,), "w2": (6, 5), "rank": 2}, 1),
    "matmul": ("p = MatMul (x, w1) a = Add (b1, p) r = Relu (a) y = MatMul (r, w2)",
               "2,3,4", {"w1": (4, 6), "b1": (6,), "w2": (6, 5), "rank": 3}, 1),
    "layer normalization": ("n = LayerNormalization (x, g, h) q = MatMul (n, w1) k = MatMul (n, w2) y = Mul (q, k)",
                            "2,3,4", {"g": (4,), "h": (4,), "w1": (4, 6), "w2": (4, 6), "rank": 3}, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", [*MODELS, *MATRICES])
def test_outputs_stay_the_same(case):
    body, *shape, sizes, changed = (MODELS | MATRICES)[case]
    given, x = model(body, *shape, **sizes)
    after, result, _ = equalized(given)
    assert result.changed == changed
    computes_the_same(given, after, x)


def rows(layer):
    return np.abs(kernels_of(layer)).max((1, 2))


def columns(layer):
    return np.abs(kernels_of(layer)).max((0, 2))


def test_ranges_of_neighbours_meet_and_repeating_changes_nothing():
    body, sizes, _ = MODELS["inverted residual"]
    after, _, layers = equalized(model(body, **sizes)[0])
    depthwise = layers["Conv_d"]
    np.testing.assert_allclose(rows(layers["Conv_a"]), rows(depthwise), rtol=5e-3)
    np.testing.assert_allclose(rows(depthwise), columns(layers["Conv_c"]), rtol=5e-3)
    again, *_ = equalized(after)
    for ours, theirs in zip(again.graph.initializer, after.graph.initializer, strict=True):
        np.testing.assert_allclose(
            onnx.numpy_helper.to_array(ours), onnx.numpy_helper.to_array(theirs), rtol=5e-3, atol=1e-6
        )


def test_a_channel_that_carries_nothing_but_its_bias_is_left_alone():
    body, sizes, _ = MODELS["basic block"]
    first, bias, second = weights(6, 4, 3, 3), weights(6), weights(4, 6, 3, 3)
    first[2], second[:, 4] = 1e-9 * first[2], 0
    given, x = model(body, **sizes | {"w1": first, "b1": bias, "w2": second})
    after, _, layers = equalized(given)
    scaled = layers["Conv_a"].inputs[2].values / bias
    np.testing.assert_array_equal(scaled[[2, 4]], 1)
    assert (scaled[[0, 1, 3, 5]] != 1).all()
    computes_the_same(given, after, x)


def test_the_largest_of_several_readers_counts_each_at_its_offset():
    body, sizes, _ = MODELS["several readers and concats"]
    _, _, layers = equalized(model(body, **sizes)[0])
    both = np.maximum(columns(layers["Conv_a"]), columns(layers["Conv_b"]))
    np.testing.assert_allclose(rows(layers["Conv_s"]), both, rtol=5e-3)
    read = columns(layers["Conv_y"])
    np.testing.assert_allclose(rows(layers["Conv_a"]), read[:3], rtol=5e-3)
    np.testing.assert_allclose(rows(layers["Conv_b"]), read[3:], rtol=5e-3)


def test_a_normalization_that_is_kept_is_part_of_the_range():
    body, sizes, _ = MODELS["normalization kept"]
    given, _ = model(body, **sizes)
    weight = next(onnx.numpy_helper.to_array(each) for each in given.graph.initializer if each.name == "w1")
    _, _, layers = equalized(given)
    np.testing.assert_array_equal(layers["Conv_a"].inputs[1].values, weight)
    norm = layers["BatchNormalization_n"]
    gamma, variance = norm.inputs[1].values, norm.inputs[4].values
    folded = rows(layers["Conv_a"]) * np.abs(gamma) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(folded, columns(layers["Conv_y"]), rtol=5e-3)


CLIPPED = (f"a = Conv (x, w1, b1) r = Clip (a, zero, six) d = Conv <group = 6, {PAD}> (r, wd, b2) "
           "q = Clip (d, , six) y = Conv (q, w2)")  # fmt: skip
CLIPPED_SIZES = {"w1": (6, 4, 1, 1), "b1": (6,), "wd": (6, 1, 3, 3), "b2": (6,), "w2": (4, 6, 1, 1)} | SIX


def test_channels_that_are_clipped_are_left_alone_by_default():
    given, _ = model(CLIPPED, **CLIPPED_SIZES)
    after, result, _ = equalized(given)
    assert result.changed == 0
    assert [(skip.node, skip.rule, skip.reason) for skip in result.skips] == [
        ("Conv_a", "equalize", "Clip_r clips its channels at one bound for all"),
        ("Conv_d", "equalize", "Clip_q clips its channels at one bound for all"),
        ("Conv_y", "equalize", "its channels are read from y, an output of the model"),
    ]
    assert [node.op_type for node in after.graph.node] == ["Conv", "Clip", "Conv", "Clip", "Conv"]


def test_a_clip_gets_a_bound_for_each_channel_if_asked_to():
    given, x = model(CLIPPED, **CLIPPED_SIZES)
    after, result, layers = equalized(given, clips="scale")
    assert result.changed == 2
    assert [node.op_type for node in after.graph.node] == ["Conv", "Relu", "Min", "Conv", "Min", "Conv"]
    assert layers["Clip_r"].inputs[1].values.shape == (6, 1, 1)
    np.testing.assert_allclose(rows(layers["Conv_d"]), columns(layers["Conv_y"]), rtol=5e-3)
    computes_the_same(given, after, x * 10)
    again, result, _ = equalized(after, clips="scale")  # a Min is scaled like a Clip
    assert result.changed == 2
    computes_the_same(given, again, x * 10)


def test_statistics_follow_the_scaling_of_the_outputs_they_describe():
    body = f"""a = Conv (x, w1) n = BatchNormalization (a, gamma, beta, mean, var) r = LeakyRelu (n)
               d = Conv <group = 6, {PAD}> (r, wd) m = BatchNormalization (d, gamma, beta, mean, var)
               y = Conv (m, w2)"""
    given, x = model(body, w1=(6, 4, 1, 1), wd=(6, 1, 3, 3), w2=(4, 6, 1, 1), **NORM)
    for kept in (True, False):
        graph, statistics = canonical(given), {}
        run_passes(graph, [FoldBatchNorm(statistics)])
        graph = canonical(given) if kept else graph
        statistics["x"] = ChannelStats(np.ones(4), np.ones(4))
        before = measured(graph)(x)
        known = dict(statistics)
        Equalize(statistics=statistics)(graph)
        after = measured(graph)(x)
        for name in ("n", "m"):
            factors = after[name].std((0, 2, 3)) / before[name].std((0, 2, 3))
            assert factors.max() > 1.5 * factors.min()
            np.testing.assert_allclose(statistics[name].mean, known[name].mean * factors, rtol=1e-3)
            np.testing.assert_allclose(statistics[name].std, known[name].std * factors, rtol=1e-3)
        assert statistics["x"] is known["x"]


def measured(graph):
    """A function from an input to the tensors n and m."""

    def values(x):
        copy = gs.import_onnx(gs.export_onnx(graph))
        copy.outputs = [copy.tensors()[name].to_variable(np.float32) for name in ("n", "m")]
        return dict(zip("nm", run(gs.export_onnx(copy), x), strict=True))

    return values
