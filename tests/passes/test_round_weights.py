"""Rounding keeps its promises on every kernel and channel, and equals a plain loop over them."""

from __future__ import annotations

import time

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.base import Skip, run_passes
from passes.freeze_weights import FreezeWeights
from passes.grid import Grid, nearest
from passes.insert_qdq import InsertQDQ
from passes.layer_kernels import kernels_of
from passes.placement import place
from passes.plan import decide
from passes.round_weights import METHODS, RoundWeights, squant
from passes.targets import TENSORRT
from passes.weight_quantizer import weight_quantizer
from passes.weight_scales import code_limits, find_grid
from tests.passes.conftest import canonical, model_of

RNG = np.random.default_rng(6)
SHAPES = [(8, 16, 9), (16, 1, 9), (4, 32, 25), (3, 5, 2), (8, 40, 1), (1, 1, 9), (5, 300, 3)]


def weights(shape):
    return RNG.standard_normal(shape) * RNG.uniform(0.1, 2, (shape[0], 1, 1))


def plain(exact, low, high):
    """Codes of one output channel [I, K], one element after the other."""
    codes, movable_later = [], []
    for kernel in exact:
        row = [float(np.clip(np.rint(x), low, high)) for x in kernel]
        error = [code - x for code, x in zip(row, kernel, strict=True)]
        if len(kernel) == 1:
            chosen = [0]
        else:
            row, chosen = rounded_together(row, error, round(abs(sum(error))), low, high)
        movable_later.append(chosen)
        codes.append(row)
    errors = [[code - x for code, x in zip(*pair, strict=True)] for pair in zip(codes, exact, strict=True)]
    total = sum(sum(each) for each in errors)
    candidates = [
        (i, k) for i, chosen in enumerate(movable_later) for k in chosen
        if errors[i][k] * total > 0 and low <= codes[i][k] - np.sign(total) <= high
    ]  # fmt: skip
    for i, k in sorted(candidates, key=lambda place: -abs(errors[place[0]][place[1]]))[: round(abs(total))]:
        codes[i][k] -= np.sign(total)
    return codes


def rounded_together(row, error, count, low, high):
    """One kernel after ``count`` of its elements went to the other side, and which one may move (again)."""
    total = sum(error)
    able = [k for k, e in enumerate(error) if e * total > 0 and low <= row[k] - np.sign(total) <= high]
    able.sort(key=lambda k: -abs(error[k]))
    count = min(count, len(able))
    row = [code - np.sign(total) * (k in able[:count]) for k, code in enumerate(row)]
    return row, able[count - 1 : count] if count and count >= abs(total) else able[count : count + 1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("scales", ["min-max", "mse"])
def test_squant_equals_the_plain_loop_over_channels(shape, bits, scales):
    kernels = weights(shape)
    grid = find_grid(kernels, bits, scales)
    expected = [plain(each, grid.low, grid.high) for each in grid.codes(kernels)]
    np.testing.assert_array_equal(squant(kernels, grid), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [4, 8])
def test_squant_meets_its_three_bounds_away_from_the_ends_of_the_grid(shape, bits):
    kernels = weights(shape)
    grid = Grid(np.full(shape[0], np.abs(kernels).max() / 5), np.zeros(shape[0]), -8, 7)
    error = squant(kernels, grid) - grid.codes(kernels)
    assert np.abs(error).max() < 1
    assert np.abs(error.sum((1, 2))).max() <= 0.5 + 1e-9
    # Each kernel had met 1/2 before one of its elements moved for the sake of the channel.
    assert np.abs(error.sum(2)).max() <= 1
    if kernels.size > 200:  # there was something to do
        assert np.abs((nearest(kernels, grid) - grid.codes(kernels)).sum((1, 2))).max() > 0.5


def test_a_channel_of_one_kernel_has_the_bound_of_kernels_and_stage_c_has_nothing_to_do():
    kernels = weights((200, 1, 9))
    grid = Grid(np.full(200, 0.7), np.zeros(200), -99, 99)
    error = squant(kernels, grid) - grid.codes(kernels)
    assert np.abs(error.sum(2)).max() <= 0.5 + 1e-9


def test_the_example_of_the_module():
    grid = Grid(np.ones(1), np.zeros(1), -8, 7)
    exact = np.array([[[0.6, 1.7, -2.4, 3.2]]])  # errors .4, .3, .4, -.2
    np.testing.assert_array_equal(squant(exact, grid), [[[0, 2, -2, 3]]])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("shape", [(4, 8, 9), (4, 64, 1)])
@pytest.mark.parametrize("scales", ["min-max", "mse"])
@pytest.mark.parametrize("bits", [2, 3])
def test_codes_at_the_ends_of_the_grid_stay_on_it(sign, shape, scales, bits):
    kernels = sign * RNG.choice([0.97, 0.6, 1.0, 0.49], shape) * RNG.uniform(0.5, 2, (4, 1, 1))
    kernels[:, 0] *= 1.2
    grid = find_grid(kernels, bits, scales)
    codes = squant(kernels, grid)
    assert grid.low <= codes.min() <= codes.max() <= grid.high
    np.testing.assert_array_equal(codes, np.rint(codes))
    assert codes.min() == grid.low or codes.max() == grid.high
    inside = (grid.codes(kernels) >= grid.low) & (grid.codes(kernels) <= grid.high)
    assert np.abs(codes - grid.codes(kernels))[inside].max() < 1


@pytest.mark.parametrize("zero_point", [0.0, 3.0])
@pytest.mark.parametrize("taps", [1, 9])
def test_weights_on_the_grid_and_kernels_of_zeros_stay(zero_point, taps):
    codes = RNG.integers(-8, 8, (4, 6, taps)).astype(np.float64)
    codes[1] = codes[2, 3] = zero_point
    grid = Grid(RNG.uniform(0.01, 1, 4).astype(np.float32).astype(np.float64), np.full(4, zero_point), -8, 7)
    np.testing.assert_array_equal(squant(grid.reals(codes), grid), codes)
    np.testing.assert_array_equal(squant(np.zeros((4, 6, taps)), grid), np.full((4, 6, taps), zero_point))


def test_a_kernel_of_zeros_takes_no_part_in_what_the_others_do():
    kernels = weights((4, 6, 9))
    kernels[:, 2] = 0
    grid = Grid(np.full(4, 0.5), np.zeros(4), -99, 99)
    codes = squant(kernels, grid)
    np.testing.assert_array_equal(codes[:, 2], np.zeros((4, 9)))
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(codes[:, others], squant(kernels[:, others], grid))


@pytest.mark.parametrize("at_once", [1, 60, 100, 10**6])  # 54 weights in a channel
def test_channels_are_apart_however_many_are_rounded_at_once(at_once, monkeypatch):
    kernels = weights((7, 6, 9))
    grid = find_grid(kernels, 3)
    expected = squant(kernels, grid)
    monkeypatch.setattr("passes.round_weights.AT_ONCE", at_once)
    np.testing.assert_array_equal(squant(kernels, grid), expected)


def test_the_weights_are_left_as_they_are():
    kernels = weights((4, 6, 9))
    before = kernels.copy()
    squant(kernels, find_grid(kernels, 3))
    np.testing.assert_array_equal(kernels, before)


def test_a_large_layer_takes_no_time():
    kernels = RNG.standard_normal((512, 512, 9), np.float32)
    grid = find_grid(kernels, 4)
    start = time.process_time()
    squant(kernels, grid)
    assert time.process_time() - start < 3


MODEL = """g (float[N,16,6,6] x) => (float[N,4] y) {
    a = Conv (x, u) r = Relu (a) t = ConvTranspose <group = 2> (r, v) p = GlobalAveragePool (t) f = Flatten (p)
    k = Gemm <transB = 1> (f, g) y = MatMul (k, m)
}"""
INSERTED = {"u": (16, 16, 3, 3), "v": (16, 8, 2, 2), "g": (6, 16), "m": (6, 4)}


def with_quantizers(bits):
    held = {name: RNG.standard_normal(size).astype(np.float32) for name, size in INSERTED.items()}
    graph = canonical(model_of(MODEL, **held))
    names = place(graph, TENSORRT).tensors
    run_passes(graph, [InsertQDQ(decide(graph, dict.fromkeys(names, (-4.0, 4.0)), TENSORRT, bits))])
    return graph, {node.name: node for node in graph.nodes}


@pytest.mark.parametrize("method", METHODS)
def test_the_pass_puts_weights_on_the_grids_of_their_scales_and_freezing_changes_nothing(method):
    bits = {"Conv_a": 3, "Gemm_k": 4, "MatMul_y": 8}
    graph, nodes = with_quantizers({"u": 3, "g": 4, "m": 8})
    expected = {}
    for name in bits:
        quantizer = weight_quantizer(nodes[name])
        grid = Grid(quantizer.scale.values.astype(np.float64), np.zeros(len(quantizer.scale.values)),
                    *code_limits(bits[name]))  # fmt: skip
        before = kernels_of(nodes[name], quantizer.weights.values).astype(np.float64)
        expected[name] = (grid, METHODS[method](before, grid), quantizer.scale.values.copy())
    result = run_passes(graph, [RoundWeights(method, bits)])[0]
    assert (result.changed, result.skips) == (3, ())
    for name, (grid, codes, scale) in expected.items():
        quantizer = weight_quantizer(nodes[name])
        np.testing.assert_array_equal(quantizer.scale.values, scale)
        after = kernels_of(nodes[name], quantizer.weights.values)
        np.testing.assert_array_equal(after, grid.reals(codes).astype(np.float32))
    run_passes(graph, [FreezeWeights()])
    for name, (_, codes, _) in expected.items():
        frozen = nodes[name].inputs[1].inputs[0].inputs[0].values
        assert frozen.dtype == np.int8
        np.testing.assert_array_equal(kernels_of(nodes[name], frozen), codes)


def test_only_the_layers_that_are_named_are_rounded():
    graph, nodes = with_quantizers(3)
    before = {name: weight_quantizer(nodes[name]).weights.values.copy() for name in ("Conv_a", "Gemm_k")}
    assert run_passes(graph, [RoundWeights("squant", {"Gemm_k": 3})])[0].changed == 1
    np.testing.assert_array_equal(weight_quantizer(nodes["Conv_a"]).weights.values, before["Conv_a"])
    assert not np.array_equal(weight_quantizer(nodes["Gemm_k"]).weights.values, before["Gemm_k"])


def test_layers_that_cannot_be_rounded_apart_say_why():
    graph, _ = with_quantizers(3)
    result = run_passes(graph, [RoundWeights("squant", {"Conv_a": 3, "ConvTranspose_t": 3})])[0]
    reason = "rounded to nearest: its weights are not quantized"
    assert (result.changed, result.skips) == (1, (Skip("ConvTranspose_t", "round-weights", reason),))
    graph = gs.import_onnx(gs.export_onnx(graph))
    run_passes(graph, [FreezeWeights()])
    result = run_passes(graph, [RoundWeights("squant", {"Conv_a": 3})])[0]  # frozen already
    assert (result.changed, result.skips) == (0, (Skip("Conv_a", "round-weights", reason),))
