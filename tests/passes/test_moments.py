"""The formulas say what sampling finds."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.fold_batchnorm import ChannelStats
from passes.layer_kernels import kernels_of
from passes.moments import averaged, clipped, covariance, leaky, mean_shift, std_ratio
from tests.passes.conftest import model_of, run

RNG = np.random.default_rng(8)
STATS = ChannelStats(np.array([0.0, -1.5, 2.0, 0.3, 5.0]), np.array([1.0, 0.8, 3.0, 0.05, 2.0]))
SAMPLES = STATS.mean + STATS.std * RNG.standard_normal((400_000, 5))


def agrees(stats, samples, atol=0.01):
    np.testing.assert_allclose(stats.mean, samples.mean(0), atol=atol)
    np.testing.assert_allclose(stats.std, samples.std(0), atol=atol)


@pytest.mark.parametrize(("low", "high"), [(0, np.inf), (0, 6), (-1, 1), (-np.inf, 0.5), (-np.inf, np.inf)])
def test_clipped_normal(low, high):
    agrees(clipped(STATS, low, high), SAMPLES.clip(low, high))


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0, 2.0])
def test_leaky_normal(slope):
    agrees(leaky(STATS, slope), np.where(SAMPLES < 0, slope * SAMPLES, SAMPLES), atol=0.02)


def test_constant_channels_and_far_away_bounds_are_no_exceptions():
    found = clipped(ChannelStats(np.array([-2.0, 0.0, 3.0, 9.0, -1e4]), np.array([0.0, 0, 0, 0, 1])), 0, 6)
    np.testing.assert_array_equal(found.mean, [0, 0, 3, 6, 0])
    np.testing.assert_array_equal(found.std, np.zeros(5))


@pytest.mark.parametrize(("rho", "shrinks"), [(0, 0.5), (1, 1), (0.2, np.sqrt(0.4))])
def test_an_average_of_four_places(rho, shrinks):
    found = averaged(STATS, 4, rho)
    np.testing.assert_array_equal(found.mean, STATS.mean)
    np.testing.assert_allclose(found.std, shrinks * STATS.std)


LAYERS = {  # operators, size of the input, of the weights
    "conv": ("y = Conv (x, w)", (1, 6, 9, 9), (4, 6, 3, 3)),
    "strided": ("y = Conv <strides = [2,2]> (x, w)", (1, 6, 9, 9), (4, 6, 3, 3)),
    "grouped": ("y = Conv <group = 2> (x, w)", (1, 6, 9, 9), (4, 3, 3, 3)),
    "depthwise": ("y = Conv <group = 6> (x, w)", (1, 6, 9, 9), (12, 1, 3, 3)),
    "transposed": ("y = ConvTranspose <strides = [2,2], group = 2> (x, w)", (1, 6, 30, 30), (6, 2, 4, 4)),
    "gemm": ("y = Gemm <alpha = 0.5> (x, w)", (1, 6), (6, 4)),
    "gemm transB": ("y = Gemm <transB = 1> (x, w)", (1, 6), (4, 6)),
    "matmul": ("y = MatMul (x, w)", (1, 6), (6, 4)),
}


def layer_of(case):
    text, shape, size = LAYERS[case]
    sizes = ",".join(map(str, shape))
    weights = RNG.standard_normal(size).astype(np.float32)
    model = model_of(f"g (float[{sizes}] x) => (float[{','.join('ABCD'[: len(shape)])}] y) {{ {text} }}", w=weights)
    return model, gs.import_onnx(model).nodes[0], shape


@pytest.mark.parametrize("case", LAYERS)
def test_the_mean_of_a_layers_output_is_exact_inside_its_borders(case):
    model, layer, shape = layer_of(case)
    means = RNG.standard_normal(6)
    constant = np.broadcast_to(means.reshape(1, 6, *[1] * (len(shape) - 2)), shape).astype(np.float32)
    (y,) = run(model, constant)
    inside = y[..., 2:-2, 2:-2].mean((2, 3)) if case == "transposed" else y.reshape(1, y.shape[1], -1).mean(2)
    np.testing.assert_allclose(mean_shift(layer, kernels_of(layer), means), inside[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("case", [case for case in LAYERS if case != "transposed"])
def test_covariance_of_two_roundings_under_correlated_inputs(case, rho):
    _, layer, _ = layer_of(case)
    first = kernels_of(layer)
    second = first + 0.5 * RNG.standard_normal(first.shape)
    groups, width, taps = layer.attrs.get("group", 1), *first.shape[1:]
    std = RNG.uniform(0.2, 2, 6)
    alike, own = RNG.standard_normal((40_000, 6, 1)), RNG.standard_normal((40_000, 6, taps))
    windows = std[:, None] * (np.sqrt(rho) * alike + np.sqrt(1 - rho) * own)  # what each kernel sees
    gain = layer.attrs.get("alpha", 1.0)

    def output(kernels):
        split = kernels.reshape(groups, -1, width, taps)
        return gain * np.einsum("ngik,goik->ngo", windows.reshape(-1, groups, width, taps), split).reshape(40_000, -1)

    sampled = (output(first) * output(second)).mean(0)
    size = np.sqrt((output(first) ** 2).mean(0) * (output(second) ** 2).mean(0))
    np.testing.assert_allclose(covariance(layer, first, second, std, rho) / size, sampled / size, atol=0.03)


def test_std_ratio_is_that_of_the_outputs_and_within_limits():
    _, layer, _ = layer_of("conv")
    kernels, std = kernels_of(layer).copy(), np.ones(6)
    kernels[3] = 0
    factors = np.array([1.5, 100.0, 0.0, 2.0])
    np.testing.assert_allclose(
        std_ratio(layer, kernels, kernels * factors[:, None, None], std, 0.5), [1.5, 10, 1, 1], rtol=1e-6
    )


def test_errors_that_cancel_within_a_kernel_change_the_deviation_of_white_inputs_only():
    _, layer, _ = layer_of("depthwise")
    kernels = np.ones((12, 1, 9))
    rounded = kernels + np.array([0.4, -0.4, 0.4, -0.4, 0, 0, 0.4, -0.4, 0])
    np.testing.assert_allclose(std_ratio(layer, kernels, rounded, np.ones(6), 1.0), 1)
    np.testing.assert_allclose(std_ratio(layer, kernels, rounded, np.ones(6), 0.0), np.sqrt(9.96 / 9))
