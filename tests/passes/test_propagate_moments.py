"""Statistics reach what they can reach, and say there what ONNX Runtime computes from random inputs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from passes.base import run_passes
from passes.fold_batchnorm import ChannelStats, FoldBatchNorm
from passes.propagate_moments import propagate
from tests.passes.conftest import canonical, model_of, run

RNG = np.random.default_rng(9)
INPUT = ChannelStats(np.array([0.5, -1.0, 2.0, 0.0]), np.array([1.0, 2.0, 0.5, 1.5]))
SIZES = {
    "w": (6, 4, 3, 3), "v": (4, 4, 3, 3), "g": (4, 2, 3, 3), "t": (4, 3, 2, 2), "b": (6,), "k": (4, 1, 1),
    "m": (4, 5), "bm": (5,), "places": (64, 5), "square": (16, 16),
}  # fmt: skip
CONSTANTS = {
    "zero": np.float32(0), "two": np.float32(2), "six": np.float32(6), "row": np.ones((1, 1, 1, 16), np.float32),
    "pads": np.array([0, 1, 0, 0, 0, 2, 0, 0]), "crop": np.array([0, -1, 0, 0] * 2), "flat": np.array([0, -1]),
    "starts": np.array([1, 0]), "ends": np.array([9, 3]), "axes": np.array([2, 1]), "steps": np.array([2, 2]),
    "last": np.array([2, 3]),
}  # fmt: skip


def model_for(body, shape="N,4,16,16"):
    words = set(re.findall(r"\w+", body))
    given = {name: RNG.standard_normal(size).astype(np.float32) for name, size in SIZES.items() if name in words}
    given |= {name: value for name, value in CONSTANTS.items() if name in words}
    flat = re.search("Gemm|Flatten|Reshape|Squeeze .p", body)
    return model_of(f"g (float[{shape}] x) => (float[{'A,B' if flat else 'A,B,C,D'}] y) {{ {body} }}", **given)


REACHED = {
    "relu": "y = Relu (x)",
    "clip": "y = Clip (x, zero, six)",
    "clip above": "y = Clip (x, , six)",
    "leaky": "y = LeakyRelu <alpha = 0.2> (x)",
    "conv": "y = Conv (x, w, b)",
    "grouped conv": "y = Conv <group = 2> (x, g)",
    "relu conv": "r = Relu (x) y = Conv (r, w)",
    "add of branches": "r = Relu (x) c = Conv <group = 2, pads = [1,1,1,1]> (x, g) y = Add (r, c)",
    "add of a constant": "y = Add (k, x)",
    "add of one number": "y = Add (x, six)",
    "concat": "r = Relu (x) y = Concat <axis = -3> (x, r)",
    "average": "y = AveragePool <kernel_shape = [2,2], strides = [2,2]> (x)",
    "global average": "y = GlobalAveragePool (x)",
    "pool flatten gemm": "p = GlobalAveragePool (x) f = Flatten (p) y = Gemm (f, m, bm)",
    "pool reshape matmul": "p = GlobalAveragePool (x) q = Reshape (p, flat) h = MatMul (q, m) y = Add (h, bm)",
    "pool squeeze": "p = GlobalAveragePool (x) y = Squeeze (p, last)",
    "places": "p = AveragePool <kernel_shape = [4,4], strides = [4,4]> (x) f = Flatten (p) y = Gemm (f, places)",
    "slice": "y = Slice (x, starts, ends, axes, steps)",
    "slice without steps": "y = Slice (x, starts, ends, axes)",
    "pad": "y = Pad (x, pads, two)",
    "identity": "i = Identity (x) y = Dropout (i)",
}


@pytest.mark.parametrize("case", REACHED)
def test_what_is_computed_is_what_random_inputs_show(case):
    model = model_for(REACHED[case])
    x = INPUT.mean.reshape(-1, 1, 1) + INPUT.std.reshape(-1, 1, 1) * RNG.standard_normal((400, 4, 16, 16))
    (y,) = run(model, x.astype(np.float32))
    y = y[:, :, 1:-1, 1:-1] if y.ndim == 4 and min(y.shape[2:]) > 4 else y  # inside the borders
    found = propagate(canonical(model), {"x": INPUT}, rho=0.0)["y"]
    axes = (0, *range(2, y.ndim))
    np.testing.assert_allclose(found.mean, y.mean(axes), atol=0.02 + 0.05 * y.std())
    np.testing.assert_allclose(found.std, y.std(axes), rtol=0.1, atol=0.02)


def test_neighbours_that_are_alike_keep_the_deviation_of_an_average():
    graph = canonical(model_for(REACHED["global average"]))
    np.testing.assert_allclose(propagate(graph, {"x": INPUT}, rho=1.0)["y"].std, INPUT.std)


def test_max_pooling_is_taken_to_change_nothing():
    graph = canonical(model_for("y = MaxPool <kernel_shape = [2,2]> (x)"))
    assert propagate(graph, {"x": INPUT})["y"] is INPUT


def test_what_was_recorded_wins():
    graph = canonical(model_for("c = Conv (x, v) y = Relu (c)"))
    recorded = ChannelStats(np.zeros(4), np.ones(4))
    found = propagate(graph, {"x": INPUT, "c": recorded})
    assert found["c"] is recorded
    np.testing.assert_allclose(found["y"].mean, 1 / np.sqrt(2 * np.pi))
    assert sorted(propagate(graph, {"c": recorded})) == ["c", "y"]  # and needs no statistics of the input


def test_a_folded_normalization_starts_it():
    statistics = {name: RNG.uniform(0.5, 1, 4).astype(np.float32) for name in ("gamma", "beta", "mean", "var")}
    model = model_of(
        """g (float[N,4,8,8] x) => (float[N,4,A,B] y) {
            h = Conv (x, w) n = BatchNormalization (h, gamma, beta, mean, var) r = Relu (n) y = Conv (r, w)
        }""",
        w=RNG.standard_normal((4, 4, 3, 3)).astype(np.float32), **statistics,
    )  # fmt: skip
    graph, fold = canonical(model), FoldBatchNorm({})
    run_passes(graph, [fold])
    assert sorted(propagate(graph, fold.statistics)) == ["n", "r", "y"]


UNREACHED = {
    "no rule": "y = Sigmoid (x)",
    "transposed": "y = ConvTranspose <strides = [2,2]> (x, t)",
    "computed bound": "s = ReduceMax (x) q = Squeeze (s) z = Relu (q) y = Clip (x, z)",
    "broadcast branch": "s = Slice (x, starts, ends, axes, steps) p = GlobalAveragePool (x) y = Add (s, p)",
    "unknown branch": "s = Sigmoid (x) y = Add (x, s)",
    "unknown part": "s = Sigmoid (x) y = Concat <axis = 1> (x, s)",
    "concat of places": "y = Concat <axis = 2> (x, x)",
    "constant by place": "y = Add (x, row)",
    "computed weights": "a = Abs (w) y = Conv (x, a)",
    "reflected": "y = Pad <mode = \"reflect\"> (x, pads)",
    "cropped channels": "y = Pad (x, crop)",
    "slice of any axes": "y = Slice (x, starts, ends)",
    "matmul over places": "y = MatMul (x, square)",
}  # fmt: skip


@pytest.mark.parametrize("case", UNREACHED)
def test_what_no_rule_covers_stays_unknown(case):
    assert "y" not in propagate(canonical(model_for(UNREACHED[case])), {"x": INPUT})


def test_places_of_unknown_number_end_the_propagation():
    for body in ("y = GlobalAveragePool (x)", "y = Flatten (x)"):
        assert "y" not in propagate(canonical(model_for(body, shape="N,4,H,W")), {"x": INPUT})
