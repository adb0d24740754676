"""Each method of choosing a range does what it is for, and none ever leaves what was seen."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from onnxdfq.calibrate.observers import Method, bounds, default_method
from onnxdfq.calibrate.ranges import Observed

RNG = np.random.default_rng(1)
METHODS = get_args(Method)
EVERY = pytest.mark.parametrize("method", METHODS)


def observed(*batches):
    found = Observed()
    for batch in batches:
        found.add(np.asarray(batch, np.float32))
    return found


def error(values, low, high, bits):
    """Mean squared error of values quantized over a range."""
    step = (high - low) / (2**bits - 1)
    codes = np.clip(np.rint((values - low) / step), 0, 2**bits - 1)
    return float(((values - (codes * step + low)) ** 2).mean())


BULK = RNG.standard_normal(60_000).astype(np.float32)  # few enough for the histogram to see all
OUTLIER = np.append(BULK, np.float32(100))


def test_min_max_is_exact():
    found = observed(BULK, BULK * 3 + 0.123)
    assert bounds(found, "min-max") == (found.low, found.high)
    assert bounds(observed([2.0, 5.0]), "min-max") == (2, 5)


@EVERY
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("values", [BULK, np.abs(BULK), -np.abs(BULK), OUTLIER, BULK + 3, np.float32([7]), -(BULK**3)])
def test_no_range_goes_beyond_what_was_seen_or_zero(method, bits, values):
    low, high = bounds(observed(values), method, bits)
    assert min(float(values.min()), 0) <= low <= high <= max(float(values.max()), 0)


def test_percentile_drops_a_far_outlier_and_keeps_the_rest():
    low, high = bounds(observed(OUTLIER), "percentile")
    inside = np.mean((low <= OUTLIER) & (high >= OUTLIER))
    assert 0.999 < inside < 1
    assert 3 < high < 5
    assert -5 < low < -3


def test_percentile_of_few_values_keeps_all_but_rounding():
    low, high = bounds(observed(np.linspace(-1, 1, 100)), "percentile")
    assert (low, high) == pytest.approx((-1, 1), abs=1e-3)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_a_far_outlier_is_clipped_and_the_bulk_is_not(method):
    assert bounds(observed(OUTLIER), method, 4)[1] < 40
    low, high = bounds(observed(BULK), method, 4)
    assert np.mean((low <= BULK) & (high >= BULK)) > 0.97


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("values", [BULK, RNG.laplace(size=60_000), RNG.uniform(-1, 3, 60_000), np.abs(BULK), OUTLIER])
def test_mse_is_at_least_as_close_as_min_max(bits, values):
    found = observed(values)
    chosen, whole = (error(values, *bounds(found, method, bits), bits) for method in ("mse", "min-max"))
    assert chosen <= whole * 1.02


def test_mse_clips_a_long_tail_at_4_bits_and_keeps_a_flat_histogram_whole():
    tail = observed(RNG.laplace(size=60_000))
    flat = observed(RNG.uniform(-1, 1, 60_000))
    assert bounds(tail, "mse", 4)[1] < 0.8 * tail.high
    assert bounds(flat, "mse", 4) == pytest.approx((flat.low, flat.high), rel=0.1)
    assert bounds(tail, "mse", 8)[1] > bounds(tail, "mse", 4)[1]  # with finer steps clipping pays less


@EVERY
@pytest.mark.parametrize("bits", [8, 4])
def test_a_tensor_of_zeros_has_no_width(method, bits):
    assert bounds(observed(np.zeros(50)), method, bits) == (0, 0)


@EVERY
def test_a_tensor_that_never_held_a_value_has_no_width_either(method):
    assert bounds(Observed(), method) == (0, 0)
    assert bounds(observed([np.nan, np.inf]), method) == (0, 0)


@EVERY
@pytest.mark.parametrize("value", [3.0, -2.5, 1e-20])
def test_a_constant_tensor_is_inside_its_range(method, value):
    low, high = bounds(observed(np.full(64, value)), method)
    kept = max(-min(low, 0), max(high, 0))
    assert kept == pytest.approx(abs(value), rel=1e-3)


def test_clipping_is_the_default_up_to_8_bits():
    assert [default_method(bits) for bits in (2, 4, 7, 8, 16)] == ["mse", "mse", "mse", "mse", "min-max"]
