"""Rounding by second moments: against the nearest codes, against all codes there are, and against a plain loop."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from passes.grid import Grid, nearest
from passes.second_order import BLOCK, DAMPING, damped, second_order
from passes.weight_scales import find_grid

RNG = np.random.default_rng(12)


def moments_of(groups, size, samples=None):
    seen = RNG.standard_normal((groups, size, samples or 2 * size)) * RNG.uniform(0.1, 3, (groups, size, 1))
    seen += RNG.uniform(0, 2) * RNG.standard_normal((groups, 1, seen.shape[2]))
    return seen @ seen.transpose(0, 2, 1) / seen.shape[2]


def grid_of(weights, bits, scales="mse"):
    return find_grid(weights.reshape(-1, weights.shape[2], 1), bits, scales)


def reals(codes, grid):
    return grid.reals(codes.reshape(-1, codes.shape[2])).reshape(codes.shape)


def nearest_codes(weights, grid):
    return nearest(weights.reshape(-1, weights.shape[2]), grid).reshape(weights.shape)


def damage(weights, rounded, moments):
    """(w - q) H (w - q)' of each row."""
    error = weights - rounded
    return np.einsum("gri,gij,grj->gr", error, moments, error)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("samples", [3, 100])  # H is singular, or is not
def test_no_row_is_worse_than_with_its_nearest_codes(bits, samples):
    ratios = []
    for size in RNG.integers(1, 30, 60):
        weights = RNG.standard_normal((2, 8, size))
        moments = damped(moments_of(2, size, samples), DAMPING)
        grid = grid_of(weights, bits)
        found = damage(weights, reals(second_order(weights, grid, moments), grid), moments)
        plain = damage(weights, reals(nearest_codes(weights, grid), grid), moments)
        assert (found <= plain * (1 + 1e-4)).all()
        ratios.append(found.sum() / plain.sum())
    assert np.mean(ratios) < 0.85


@pytest.mark.parametrize("bits", [2, 3])
def test_tiny_cases_are_mostly_solved_as_well_as_they_can_be(bits):
    ratios = []
    for _ in range(100):
        weights, moments = RNG.standard_normal((1, 1, 4)), damped(moments_of(1, 4, 6), DAMPING)
        grid = grid_of(weights, bits, "min-max")
        every = np.array(list(itertools.product(range(grid.low, grid.high + 1), repeat=4)), float)
        best = damage(weights, grid.scale[0] * every[None], moments).min()
        found = damage(weights, reals(second_order(weights, grid, moments), grid), moments)[0, 0]
        assert found >= best * (1 - 1e-5)
        ratios.append(found / best)
    assert np.mean(np.array(ratios) < 1.0001) > 0.7  # nearest: 0.6 or less
    assert np.mean(ratios) < 1.15  # nearest: 1.4 or more


@pytest.mark.parametrize("size", [1, 5, 70])
@pytest.mark.parametrize("strength", [1.0, 1e-6, 1e6])
def test_inputs_that_have_nothing_to_do_with_each_other_leave_the_nearest_codes(size, strength):
    weights = RNG.standard_normal((2, 4, size))
    grid = grid_of(weights, 3)
    of_each = strength * RNG.uniform(0.5, 2, (2, 1, size))
    codes = second_order(weights, grid, of_each * np.eye(size))
    np.testing.assert_array_equal(codes, nearest_codes(weights, grid))


def test_inputs_that_are_all_the_same_round_the_sum():
    weights = RNG.standard_normal((1, 20, 12))
    grid = Grid(np.full(20, 0.5), np.zeros(20), -99, 99)
    codes = second_order(weights, grid, np.ones((1, 12, 12)) + 1e-3 * np.eye(12))
    assert np.abs((weights - reals(codes, grid)).sum(2)).max() <= 0.25 + 0.02
    assert np.abs((weights - reals(nearest_codes(weights, grid), grid)).sum(2)).max() > 0.5


def in_a_loop(weights, grid, moments):
    """Codes of one group, one column after the other and without blocks, then one more look at each."""
    order = np.argsort(-np.diag(moments), kind="stable")
    damping = damped(moments[None], DAMPING)[0][np.ix_(order, order)]
    turned = np.linalg.cholesky(damping[::-1, ::-1])[::-1, ::-1]
    rows = []
    for w, scale, zero in zip(weights[:, order], grid.scale, grid.zero_point, strict=True):
        code, error = np.zeros(len(w)), np.zeros(len(w))
        for j in range(len(w)):
            wanted = w[j] + sum(error[i] * turned[i, j] / turned[j, j] for i in range(j))
            code[j] = np.clip(np.rint(wanted / scale + zero), grid.low, grid.high)
            error[j] = w[j] - (code[j] - zero) * scale
        for _ in range(20):
            for j in range(len(w)):
                error = w - (code - zero) * scale
                step = error @ damping[j] / damping[j, j] / scale
                code[j] = np.clip(np.rint(code[j] + step), grid.low, grid.high)
        row = np.zeros(len(w))
        row[order] = code
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
@pytest.mark.parametrize("zero_point", [0.0, 2.0])
def test_blocks_make_no_difference(size, zero_point, monkeypatch):
    monkeypatch.setattr("passes.second_order.SWEEPS", 20)  # until nothing moves
    weights, moments = RNG.standard_normal((1, 3, size)), moments_of(1, size)
    found = grid_of(weights, 3)
    grid = Grid(found.scale, np.full(3, zero_point), found.low + int(zero_point), found.high + int(zero_point))
    codes = second_order(weights, grid, moments)
    expected = in_a_loop(weights[0], grid, moments[0])
    assert np.mean(codes[0] == expected) > 0.95  # float32 may see a tie the other way
    harm = damped(moments, DAMPING)
    of_both = [damage(weights, reals(each, grid), harm).sum() for each in (codes, expected[None])]
    assert of_both[0] == pytest.approx(of_both[1], rel=0.1)
    assert not np.array_equal(codes, nearest_codes(weights, grid))


def test_every_block_makes_up_for_the_ones_before_it():
    size = 3 * BLOCK
    weights, moments = RNG.standard_normal((1, 8, size)), np.ones((1, size, size)) + 0.05 * np.eye(size)
    grid = Grid(np.full(8, 0.5), np.zeros(8), -99, 99)
    assert np.abs((weights - reals(second_order(weights, grid, moments), grid)).sum(2)).max() < 0.5


@pytest.mark.parametrize("size", [30, 70])
def test_groups_are_apart(size):
    weights, moments = RNG.standard_normal((3, 8, size)), moments_of(3, size, size // 3)
    moments *= np.array([1.0, 20.0, 400.0]).reshape(3, 1, 1)
    grid = grid_of(weights, 3)
    together = second_order(weights, grid, moments)
    for group in range(3):
        rows, one = slice(8 * group, 8 * group + 8), slice(group, group + 1)
        own, harm = Grid(grid.scale[rows], grid.zero_point[rows], grid.low, grid.high), damped(moments, DAMPING)[one]

        def of_group(codes, one=one, own=own, harm=harm):
            return damage(weights[one], reals(codes, own), harm).sum()

        alone = of_group(second_order(weights[one], own, moments[one]))
        others = of_group(second_order(weights[one], own, moments[[(group + 1) % 3]]))
        assert of_group(together[one]) == pytest.approx(alone, rel=0.25)  # a little is added by the strong ones
        assert of_group(together[one]) < 0.5 * others


@pytest.mark.parametrize("dead", ["all", "one group", "some inputs"])
def test_inputs_that_are_always_zero_do_no_harm(dead):
    weights, moments = RNG.standard_normal((2, 5, 9)), moments_of(2, 9)
    silent = {"all": np.s_[:, :], "one group": np.s_[0, :], "some inputs": np.s_[:, 2:5]}[dead]
    moments[silent] = 0
    moments.transpose(0, 2, 1)[silent] = 0
    grid = grid_of(weights, 3)
    codes = second_order(weights, grid, moments)
    plain = nearest_codes(weights, grid)
    np.testing.assert_array_equal(codes[silent] if dead != "some inputs" else codes[:, :, 2:5],
                                  plain[silent] if dead != "some inputs" else plain[:, :, 2:5])  # fmt: skip
    assert np.isfinite(codes).all()
    if dead != "all":
        assert not np.array_equal(codes, plain)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_are_whole_numbers_on_the_grid_and_weights_on_it_stay(bits):
    weights, moments = 3 * RNG.standard_normal((2, 4, 70)), moments_of(2, 70)
    weights[0, 1] = 0
    grid = grid_of(weights, bits)
    codes = second_order(weights, grid, moments)
    assert codes.shape == weights.shape
    np.testing.assert_array_equal(codes, np.rint(codes))
    assert grid.low <= codes.min() <= codes.max() <= grid.high
    np.testing.assert_array_equal(second_order(reals(codes, grid), grid, moments), codes)
    np.testing.assert_array_equal(codes[0, 1], np.zeros(70))


def test_what_is_given_is_left_as_it_is():
    weights, moments = RNG.standard_normal((1, 4, 70)), moments_of(1, 70)
    before = weights.copy(), moments.copy()
    second_order(weights, grid_of(weights, 3), moments)
    np.testing.assert_array_equal(weights, before[0])
    np.testing.assert_array_equal(moments, before[1])


def test_a_layer_of_512_channels_takes_about_a_second():
    weights, moments = RNG.standard_normal((1, 512, 1152)), moments_of(1, 1152)
    grid = grid_of(weights, 4, "min-max")
    start = time.process_time()
    second_order(weights, grid, moments)
    assert time.process_time() - start < 8


def test_damping_makes_any_moments_fit_to_be_factored_and_adds_its_share():
    moments = moments_of(3, 6, 2)
    moments[1] = 0
    more = damped(moments, 0.1)
    assert (np.linalg.eigvalsh(more) > 0).all()
    added = np.trace(more - moments, axis1=1, axis2=2) / np.trace(moments, axis1=1, axis2=2).clip(1e-30)
    np.testing.assert_allclose(added[[0, 2]], 0.1, rtol=0.01)
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_array_equal(more[:, off], moments[:, off])
