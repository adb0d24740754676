"""Minimum and maximum are exact, and the histogram loses no value however far it has to reach."""

from __future__ import annotations

import numpy as np
import pytest

from onnxdfq.calibrate.ranges import BINS, SAMPLES, Observed, observe

RNG = np.random.default_rng(0)


def values(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def observed(*batches):
    found = Observed()
    for batch in batches:
        found.add(np.asarray(batch, np.float32))
    return found


def histogram(batch, limit):
    return np.histogram(batch, BINS, (-limit, limit))[0]


def test_minimum_and_maximum_are_exact_over_all_batches():
    batches = [values(4, 3, 8, 8), values(2, 3, 8, 8) - 5, values(1, 3, 8, 8) * 7]
    found = observed(*batches)
    assert found.low == min(batch.min() for batch in batches)
    assert found.high == max(batch.max() for batch in batches)


def test_minimum_and_maximum_see_what_the_histogram_skips():
    batch = np.zeros(4 * SAMPLES, np.float32)
    batch[1], batch[3] = 17.5, -3.25
    found = observed(batch)
    assert (found.low, found.high) == (-3.25, 17.5)
    assert found.counts.sum() == SAMPLES


def test_every_value_is_counted_once_while_the_histogram_widens():
    batches = [values(1000) * 10.0**power for power in (-6, -2, 0, 3, 1, 6)]
    found = Observed()
    for index, batch in enumerate(batches, 1):
        found.add(batch)
        assert found.counts.sum() == 1000 * index
        assert found.limit >= max(-found.low, found.high)
    assert found.limit < 4 * max(-found.low, found.high)  # no wider than it has to be


def test_a_widened_histogram_equals_one_that_was_wide_from_the_start():
    small, large = values(5000) * 0.1, values(5000) * 10
    late, early = observed(small, large), observed(large, small)
    assert late.limit == early.limit
    np.testing.assert_array_equal(late.counts, early.counts)
    np.testing.assert_array_equal(late.counts, histogram(np.concatenate([small, large]), late.limit))


def test_counts_stand_where_the_values_are():
    found = observed([-0.7, 0.0, 0.3, 0.3])
    step = 2 * found.limit / BINS
    centers = found.centers()
    assert centers.shape == (BINS,)
    assert (centers[0], centers[-1]) == pytest.approx((step / 2 - found.limit, found.limit - step / 2))
    held = {round(float(centers[k]), 3): int(found.counts[k]) for k in np.flatnonzero(found.counts)}
    assert sum(held.values()) == 4
    for value, count in [(-0.7, 1), (0.0, 1), (0.3, 2)]:
        assert sum(n for center, n in held.items() if abs(center - value) <= step) == count


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_no_values(bad):
    clean = values(100)
    dirty = np.insert(clean, [0, 50, 100], bad)
    found, expected = observed(dirty), observed(clean)
    assert (found.low, found.high, found.limit) == (expected.low, expected.high, expected.limit)
    np.testing.assert_array_equal(found.counts, expected.counts)


@pytest.mark.parametrize("nothing", [np.full((3, 4), np.nan), np.array([np.inf, -np.inf]), np.zeros((0, 8))])
def test_a_batch_without_values_changes_nothing(nothing):
    found = observed(nothing)
    assert (found.low, found.high, found.limit) == (np.inf, -np.inf, 0)
    assert found.counts.sum() == 0
    found.add(np.float32([1, 2]))
    assert (found.low, found.high, found.counts.sum()) == (1, 2, 2)


def test_a_tensor_of_zeros_and_what_may_follow_it():
    found = observed(np.zeros((2, 5)))
    assert (found.low, found.high) == (0, 0)
    assert found.counts.sum() == 10
    found.add(np.float32([3.0, -1.0]))
    assert (found.low, found.high) == (-1, 3)
    assert found.counts.sum() == 12
    assert found.counts[BINS // 2 - 1 : BINS // 2 + 1].sum() == 10  # the zeros are still at zero


@pytest.mark.parametrize("largest", [1.0, 2.0**-20, 1e30, 3.4e38])
def test_a_value_at_the_edge_is_inside(largest):
    found = observed([largest, -largest], [largest])
    assert found.counts.sum() == 3
    assert np.isfinite(found.limit)
    assert found.limit >= largest


def test_a_value_at_the_very_limit_of_the_histogram_is_inside():
    found = observed([0.9])
    assert found.limit == 1
    found.add(np.float32([1.0, -1.0]))
    assert (found.counts.sum(), found.limit) == (3, 1)
    assert (found.counts[0], found.counts[-1]) == (1, 1)


def test_observing_a_stream_keeps_floats_by_name():
    def stream():
        yield {"a": np.float32([1, 2]), "codes": np.array([1, 2]), "half": np.float16([0.5])}
        yield {"a": np.float32([-4]), "b": np.float64([9])}

    ranges = observe(stream())
    assert sorted(ranges) == ["a", "b", "half"]
    assert {name: (each.low, each.high) for name, each in ranges.items()} == {
        "a": (-4, 2), "b": (9, 9), "half": (0.5, 0.5)
    }  # fmt: skip
    assert observe([]) == {}


def test_observing_does_not_touch_the_values():
    batch = values(3, 7)
    before = batch.copy()
    observed(batch)
    np.testing.assert_array_equal(batch, before)
