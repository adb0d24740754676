"""The closed form is what it says it is, and factors mean the same wherever they are written."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.compensate import Compensate, Compensation
from passes.dfmpc import DFMPC, bias_values, coefficients, decide_dfmpc, scaled_inputs
from passes.insert_qdq import InsertQDQ
from passes.layer_kernels import as_stored, kernels_of
from passes.pairing import find_pairs
from passes.plan import decide
from passes.targets import ORT_CUDA
from passes.ternary import ternary
from tests.passes.conftest import canonical, model_of, run

RNG = np.random.default_rng(11)
KERNELS, BIAS = RNG.standard_normal((8, 4, 9)), RNG.standard_normal(8)
PLAIN = "a = Conv (x, w, b) r = Relu (a) p = MaxPool <kernel_shape = [2,2]> (r) y = Conv (p, v)"


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def graph_of(body=PLAIN, kind="N,4,9,9", **given):
    sizes = {"w": (8, 4, 3, 3), "b": (8,), "v": (5, 8, 3, 3), "d": (8, 1, 3, 3), "u": (6, 8, 1, 1)}
    known = {name: weights(*size) for name, size in sizes.items() if f" {name}" in body} | given
    rank = "A,B" if "Gemm" in body else "A,B,C,D"
    return canonical(model_of(f"g (float[{kind}] x) => (float[{rank}] y) {{ {body} }}", **known))


def pairs_of(graph):
    layers = [node.name for node in graph.nodes if node.op in ("Conv", "Gemm")]
    return find_pairs(graph, layers, []).pairs


def quantized(graph, bits):
    """The graph with Q/DQ around its weights; bits by layer, layers without stay in float."""
    by_weights = {node.inputs[1].name: bits[node.name] for node in graph.nodes if node.name in bits}
    plan = decide(graph, {}, ORT_CUDA, by_weights)
    for name in set(plan.tensors) - by_weights.keys():
        del plan.tensors[name]
    after = gs.import_onnx(gs.export_onnx(graph))
    InsertQDQ(plan)(after)
    return after


def products(kernels, rounded):
    return (kernels * rounded).sum((1, 2)), np.square(rounded).sum((1, 2))


@pytest.mark.parametrize(("lambda1", "lambda2"), [(0.0, 0.0), (0.5, 0.0), (0.5, 3.0)])
def test_the_closed_form_minimizes_the_loss(lambda1, lambda2):
    rounded, shifted = KERNELS + 0.4 * RNG.standard_normal(KERNELS.shape), BIAS + 0.2

    def loss(c):
        left = np.square(KERNELS - c[:, None, None] * rounded).sum((1, 2))
        return left + lambda1 * (BIAS - c * shifted) ** 2 + lambda2 * (1 - c) ** 2

    low, high = np.zeros(8), np.full(8, 3.0)
    for _ in range(100):  # golden sections
        inner = low + 0.381966 * (high - low), low + 0.618034 * (high - low)
        left = loss(inner[0]) < loss(inner[1])
        low, high = np.where(left, low, inner[0]), np.where(left, inner[1], high)
    found = coefficients(*products(KERNELS, rounded), BIAS, shifted, lambda1, lambda2)
    np.testing.assert_allclose(found, low, atol=1e-6)


@pytest.mark.parametrize("lambda1", [0.0, 0.5, 10.0])
def test_a_least_squares_scale_leaves_nothing_to_do(lambda1):
    codes, scale = ternary(KERNELS, per_channel=True)
    found = coefficients(*products(KERNELS, codes * scale[:, None, None]), BIAS, BIAS, lambda1)
    np.testing.assert_allclose(found, 1)


def test_a_negative_gamma_changes_nothing():
    """With BatchNormalization kept: y_j = gamma_j / sigma_j (W_j x - mu_j) + beta_j, and the same behind ^W."""
    gain = np.array([1, -1] * 4) * RNG.uniform(0.1, 3, 8)
    codes, scale = ternary(KERNELS, per_channel=False)
    cross, energy = products(KERNELS, codes * scale[:, None, None])
    folded = gain[:, None, None] * KERNELS, gain[:, None, None] * codes * scale[:, None, None]
    found = coefficients(*products(*folded), BIAS, BIAS)
    np.testing.assert_allclose(found, coefficients(gain**2 * cross, gain**2 * energy, BIAS, BIAS))
    np.testing.assert_allclose(found, coefficients(*products(*(-each for each in folded)), -BIAS, -BIAS))


def test_empty_and_opposite_channels_are_left_alone_and_others_kept_within_limits():
    cross, energy = np.array([0.0, 1.0, -1.0, 100.0, 1e-3]), np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    found = coefficients(cross, energy, np.zeros(1), np.zeros(1))
    np.testing.assert_array_equal(found, [1, 1, 1, 5, 0.05])
    assert coefficients(np.zeros(1), np.zeros(1), np.ones(1), np.ones(1)) == 1  # the bias alone


@pytest.mark.parametrize("groups", [1, 2])
def test_a_factor_in_a_layer_is_a_factor_in_those_that_read_it(groups):
    graph = graph_of(PLAIN.replace("(p, v)", f"<group = {groups}> (p, v)"), v=weights(6, 8 // groups, 3, 3))
    low, *_, high = graph.nodes
    c, x = RNG.uniform(0.1, 3, 8), weights(3, 4, 9, 9)
    behind = quantized(graph, {low.name: 2})
    shift = (c - 1) * bias_values(low)
    Compensate({low.name: Compensation(c, shift, c, c)})(behind)
    ahead = quantized(graph, {low.name: 2})
    reader = ahead.nodes[-1]
    scaled = scaled_inputs(reader, kernels_of(high), c)
    reader.inputs[1].values = as_stored(reader, scaled, high.inputs[1].values.shape).astype(np.float32)
    (one,), (other,) = (run(gs.export_onnx(each), x) for each in (behind, ahead))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())
    assert np.abs(one - run(gs.export_onnx(quantized(graph, {low.name: 2})), x)[0]).max() > 0.1


def test_two_bits_are_ternary_over_the_layer_before_its_normalization():
    graph, gain = graph_of(), RNG.uniform(0.1, 3, 8) * np.array([1, -1] * 4)
    decision = decide_dfmpc(graph, pairs_of(graph), {"Conv_a": 2, "Conv_y": 6}, {"a": gain})
    kernels = kernels_of(graph.nodes[0]).astype(np.float64)
    codes, scale = ternary(kernels / gain[:, None, None], per_channel=False)
    new = decision.weights["Conv_a"]
    np.testing.assert_allclose(new.kernels, codes * (scale * gain)[:, None, None], rtol=1e-6)
    np.testing.assert_allclose(new.scale, scale * np.abs(gain))
    empty = sum(not channel.any() for channel in codes)
    assert decision.notes == {"Conv_a": f"2 bits, scale one for the layer; {empty} empty channels"}
    cross, energy = products(kernels, new.kernels)
    bias = bias_values(graph.nodes[0])
    np.testing.assert_allclose(decision.coefficients["Conv_a"], coefficients(cross, energy, bias, bias), rtol=1e-6)


def test_more_bits_are_uniform_up_to_the_largest_weight_of_the_layer():
    graph, gain = graph_of(), RNG.uniform(0.5, 2, 8)
    new = decide_dfmpc(graph, pairs_of(graph), {"Conv_a": 3, "Conv_y": 8}, {"a": gain}).weights["Conv_a"]
    codes = new.kernels / new.scale[:, None, None]
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-9)
    assert np.abs(codes).max() == pytest.approx(3)
    np.testing.assert_allclose(new.scale / gain, new.scale[0] / gain[0])


@pytest.mark.parametrize("bits", [2, 4])
def test_without_its_normalization_every_channel_has_a_scale(bits):
    graph = graph_of()
    decision = decide_dfmpc(graph, pairs_of(graph), {"Conv_a": bits, "Conv_y": 6}, {})
    assert "by channel, as its normalization was folded before" in decision.notes["Conv_a"]
    assert len(set(decision.weights["Conv_a"].scale)) == 8
    if bits == 2:
        np.testing.assert_allclose(decision.coefficients["Conv_a"], 1)


BRANCHES = """a = Conv (x, w, b) r = Relu (a) h = Conv (x, w) s = Relu (h) c = Concat <axis = 1> (r, s)
              y = Conv (c, m)"""
READ = {
    "plain": (PLAIN, {}, ["Conv_a"]),
    "through a depthwise": ("a = Conv (x, w, b) q = Conv <group = 8> (a, d) y = Conv (q, u)", {}, ["Conv_a"]),
    "concat": (BRANCHES, {"m": weights(5, 16, 3, 3)}, ["Conv_a", "Conv_h"]),
    "gemm": ("a = Conv (x, w, b) p = GlobalAveragePool (a) f = Flatten (p) y = Gemm (f, m, n)",
             {"m": weights(8, 5), "n": weights(5)}, ["Conv_a"]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_the_decision_says_is_what_the_graph_computes(case):
    body, given, lows = READ[case]
    graph = graph_of(body, **given)
    pairs = pairs_of(graph)
    assert [pair.low for pair in pairs] == lows
    high = pairs[0].high[0]
    bits = dict.fromkeys(lows, 2) | {high: 8}
    gains = {name.removeprefix("Conv_"): np.ones(8) for name in lows}
    decision = decide_dfmpc(graph, pairs, bits, gains)
    after = quantized(graph, bits)
    assert DFMPC(decision)(after).changed == len(lows) + 1
    # The same in float: ternary weights, and coefficients in the reader.
    layers = {node.name: node for node in graph.nodes}
    for name in lows:
        weight = layers[name].inputs[1]
        weight.values = decision.weights[name].kernels.reshape(weight.values.shape).astype(np.float32)
    c = np.concatenate([decision.coefficients[name] for name in lows])
    assert np.ptp(c) > 0.01
    weight = layers[high].inputs[1]
    scaled = scaled_inputs(layers[high], kernels_of(layers[high]), c)
    weight.values = as_stored(layers[high], scaled, weight.values.shape).astype(np.float32)
    x = weights(2, 4, 9, 9)
    (found,), (expected,) = run(gs.export_onnx(after), x), run(gs.export_onnx(graph), x)
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())  # but for 8 bits of the reader


def test_a_reader_in_float_is_scaled_in_float():
    graph = graph_of()
    decision = decide_dfmpc(graph, pairs_of(graph), {"Conv_a": 2}, {"a": np.ones(8)})
    assert decision.weights["Conv_y"].scale is None
    after = quantized(graph, {"Conv_a": 2})
    DFMPC(decision)(after)
    c = decision.coefficients["Conv_a"].reshape(1, 8, 1, 1)
    np.testing.assert_allclose(after.nodes[-1].inputs[1].values, graph.nodes[-1].inputs[1].values * c, rtol=1e-5)


def test_a_kept_normalization_and_a_bias_by_row_are_no_pair():
    statistics = {name: np.ones(8, np.float32) for name in ("gamma", "beta", "mean", "var")}
    graph = graph_of(
        "a = Conv (x, w) n = BatchNormalization (a, gamma, beta, mean, var) r = Relu (n) y = Conv (r, v)", **statistics
    )
    (skip,) = decide_dfmpc(graph, pairs_of(graph), {"Conv_a": 2, "Conv_y": 6}, {}).skips
    assert (skip.node, skip.rule, skip.reason) == ("Conv_a", "dfmpc", "the BatchNormalization after it is not folded")
    graph = graph_of("a = Gemm (x, m, n) r = Relu (a) y = Gemm (r, k)", "3,4", m=weights(4, 8), n=weights(3, 8),
                     k=weights(8, 5))  # fmt: skip
    (skip,) = decide_dfmpc(graph, pairs_of(graph), {"Gemm_a": 2, "Gemm_y": 6}, {}).skips
    assert skip.reason == "its bias differs from row to row"


def test_a_layer_without_its_quantizer_is_left_alone():
    graph = graph_of()
    decision = decide_dfmpc(graph, pairs_of(graph), {"Conv_a": 2, "Conv_y": 6}, {})
    result = DFMPC(decision)(graph)
    assert result.changed == 0
    assert {skip.reason for skip in result.skips} == {"its weights are not quantized"}
