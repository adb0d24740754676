"""The scale is the one that a search over all shares, written as a loop, finds to be best."""

from __future__ import annotations

import numpy as np
import pytest

from passes.grid import nearest
from passes.weight_scales import POWER, SHARES, code_limits, find_grid

RNG = np.random.default_rng(7)
KERNELS = RNG.standard_t(4, (6, 5, 9)) * RNG.uniform(0.1, 3, (6, 1, 1))  # some weights far out
METHODS = ("min-max", "mse", "lp")


def damage(kernels, scale, bits, power, importance=1.0):
    """The same sum for one channel, in plain numbers."""
    low, high = code_limits(bits)
    rounded = np.clip(np.rint(kernels / scale), low, high) * scale
    return float((importance * np.abs(kernels - rounded) ** power).sum())


@pytest.mark.parametrize(
    ("bits", "limits"), [(2, (-2, 1)), (3, (-4, 3)), (4, (-8, 7)), (7, (-64, 63)), (8, (-127, 127))]
)
def test_the_lowest_code_is_spared_at_8_bits_only(bits, limits):
    assert code_limits(bits) == limits


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_min_max_is_the_smallest_scale_that_clips_nothing(bits):
    grid = find_grid(KERNELS, bits)
    exact = grid.codes(KERNELS).reshape(6, -1)
    assert (exact.min(1) >= grid.low - 1e-5).all()
    assert (exact.max(1) <= grid.high + 1e-5).all()
    at_an_end = np.isclose(exact.min(1), grid.low, atol=1e-5) | np.isclose(exact.max(1), grid.high, atol=1e-5)
    assert at_an_end.all()
    assert (grid.low, grid.high) == code_limits(bits)
    np.testing.assert_array_equal(grid.zero_point, np.zeros(6))


def test_a_channel_below_zero_uses_the_lowest_code():
    grid = find_grid(np.array([[[-4.0, -1.0]], [[3.0, 1.0]]]), 3)
    np.testing.assert_array_equal(grid.scale, [1.0, 1.0])
    np.testing.assert_array_equal(nearest(np.array([[[-4.0, -1.0]], [[3.0, 1.0]]]), grid), [[[-4, -1]], [[3, 1]]])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("method", ["mse", "lp"])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_channel_gets_the_best_of_all_shares(bits, method, weighted):
    importance = RNG.uniform(0.01, 5, KERNELS.shape) if weighted else None
    scales = find_grid(KERNELS, bits, method, importance=importance).scale
    widest = find_grid(KERNELS, bits).scale
    for channel, kernels in enumerate(KERNELS):
        of_each = importance[channel] if weighted else 1.0
        losses = [damage(kernels, share * widest[channel], bits, POWER[method], of_each) for share in SHARES]
        assert scales[channel] == pytest.approx(SHARES[int(np.argmin(losses))] * widest[channel], rel=1e-6)


def test_at_few_bits_far_outliers_are_clipped_and_lp_minds_them_more():
    minmax, mse, lp = (find_grid(KERNELS, 3, method).scale for method in METHODS)
    assert (mse <= minmax).all()
    assert mse.sum() < lp.sum() < minmax.sum()


def test_what_matters_more_is_met_better():
    kernels = RNG.standard_normal((1, 2, 50))
    kernels[0, 1] *= 5
    first = np.broadcast_to(np.array([100.0, 1.0]).reshape(1, 2, 1), kernels.shape)
    errors = []
    for importance in (first, first[:, ::-1]):
        grid = find_grid(kernels, 3, "mse", importance=importance)
        errors.append(((kernels - grid.reals(nearest(kernels, grid))) ** 2).sum(2)[0])
    assert errors[0][0] < errors[1][0]
    assert errors[0][1] > errors[1][1]


@pytest.mark.parametrize("method", METHODS)
def test_one_scale_for_all_channels_is_the_best_for_them_together(method):
    grid = find_grid(KERNELS, 3, method, whole=True)
    assert grid.scale.shape == (6,)
    assert len(set(grid.scale)) == 1
    together = find_grid(KERNELS.reshape(1, 30, 9), 3, method)
    assert grid.scale[0] == together.scale[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("whole", [False, True])
def test_no_scale_falls_below_its_floor(method, whole):
    floor = np.array([0, 10, 0, 0, 20, 0.0])
    found = find_grid(KERNELS, 3, method, floor=floor, whole=whole).scale
    free = find_grid(KERNELS, 3, method).scale
    np.testing.assert_array_equal(found, 20 if whole else np.maximum(floor, free))


@pytest.mark.parametrize("method", METHODS)
def test_scales_are_float32_and_channels_of_zeros_have_one(method):
    kernels = KERNELS.astype(np.float32)
    kernels[2] = 0
    scale = find_grid(kernels, 4, method).scale
    assert (scale > 0).all()
    np.testing.assert_array_equal(scale, scale.astype(np.float32))
