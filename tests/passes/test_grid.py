"""Codes and what they stand for, channel by channel."""

from __future__ import annotations

import numpy as np
import pytest

from passes.grid import Grid, nearest

RNG = np.random.default_rng(1)
GRID = Grid(np.array([0.5, 2.0]), np.array([0.0, 3.0]), -4, 3)


def test_codes_count_steps_from_each_channels_own_zero_point():
    kernels = np.array([[[1.0, -0.75]], [[1.0, -4.0]]])
    np.testing.assert_array_equal(GRID.codes(kernels), [[[2.0, -1.5]], [[3.5, 1.0]]])


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3), (2, 5, 3, 3)])
def test_what_codes_stand_for_has_these_codes_again(shape):
    codes = RNG.integers(-4, 4, shape).astype(np.float64)
    np.testing.assert_array_equal(GRID.codes(GRID.reals(codes)), codes)
    np.testing.assert_array_equal(nearest(GRID.reals(codes), GRID), codes)


def test_no_code_is_nearer_than_the_nearest():
    kernels = 4 * RNG.standard_normal((2, 50, 3))
    found = np.abs(GRID.reals(nearest(kernels, GRID)) - kernels)
    for code in range(GRID.low, GRID.high + 1):
        assert (found <= np.abs(GRID.reals(np.full(kernels.shape, float(code))) - kernels) + 1e-12).all()


def test_halves_go_to_the_even_code_and_what_is_beyond_stays_at_the_end():
    grid = Grid(np.array([1.0]), np.array([0.0]), -2, 3)
    kernels = np.array([[[0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30]]])
    np.testing.assert_array_equal(nearest(kernels, grid), [[[0, 2, 2, 0, -2, 3, -2]]])
    codes = set(nearest(np.linspace(-12, 12, 200).reshape(1, 1, -1), grid).flat)
    assert codes == {-2, -1, 0, 1, 2, 3}
