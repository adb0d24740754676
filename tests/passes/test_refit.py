"""Weights find back what the inputs lost, where both halves of the images say so."""

from __future__ import annotations

import numpy as np
import pytest

from passes.refit import TRUSTS, refit

RNG = np.random.default_rng(9)


def seen(x, distorted):
    """H and C - H of centred rows [G, count, D]."""
    moments = distorted.transpose(0, 2, 1) @ distorted / distorted.shape[1]
    return moments, (x - distorted).transpose(0, 2, 1) @ distorted / distorted.shape[1]


def inputs(groups=1, count=4000, size=8):
    """Rows that go together, as neighbouring pixels do."""
    mixed = RNG.standard_normal((groups, size, size)) / np.sqrt(size) + np.eye(size)
    return RNG.standard_normal((groups, count, size)) @ mixed


def halves_of(x, distorted):
    half = x.shape[1] // 2
    return [seen(x[:, part], distorted[:, part]) for part in (slice(None, half), slice(half, None))]


def lost(weights, fitted, x, distorted):
    """E |W x - T ^x|^2 of each group."""
    difference = x @ weights.transpose(0, 2, 1) - distorted @ fitted.transpose(0, 2, 1)
    return (difference**2).sum((1, 2)) / x.shape[1]


@pytest.mark.parametrize("groups", [1, 3])
def test_where_nothing_was_lost_weights_stay(groups):
    x, weights = inputs(groups), RNG.standard_normal((groups, 5, 8))
    np.testing.assert_array_equal(refit(weights, halves_of(x, x)), weights)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_linear_distortion_is_undone_as_far_as_it_is_believed(groups):
    x, weights = inputs(groups), RNG.standard_normal((groups, 5, 8))
    distortion = np.eye(8) + 0.1 * RNG.standard_normal((groups, 8, 8))
    distorted = x @ distortion.transpose(0, 2, 1)
    fitted = refit(weights, halves_of(x, distorted))
    right = weights @ np.linalg.inv(distortion)
    assert (lost(weights, fitted, x, distorted) < 0.5 * lost(weights, weights, x, distorted)).all()
    assert np.linalg.norm(fitted - right) < 0.8 * np.linalg.norm(weights - right)


def test_the_more_it_is_believed_the_closer_it_comes(monkeypatch):
    monkeypatch.setattr("passes.refit.TRUSTS", (1e-9, 0.3, 3.0))
    x, weights = inputs(), RNG.standard_normal((1, 5, 8))
    distortion = np.eye(8) + 0.1 * RNG.standard_normal((1, 8, 8))
    fitted = refit(weights, halves_of(x, x @ distortion.transpose(0, 2, 1)))
    np.testing.assert_allclose(fitted, weights @ np.linalg.inv(distortion), atol=1e-4)


def test_the_result_is_the_least_of_what_is_minimized():
    """E |W x - T ^x|^2 + lambda |W - T|^2 has no slope at T."""
    x, weights = inputs(), RNG.standard_normal((1, 5, 8))
    distorted = x + 0.2 * np.maximum(x, 0)
    halves = halves_of(x, distorted)
    moments, cross = np.mean(halves, axis=0)
    fitted = refit(weights, halves)
    slope = (fitted - weights) @ moments - weights @ cross
    ratio = -slope / (fitted - weights)  # lambda, whatever the element
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-3)
    mean_variance = np.trace(moments[0]) / 8
    assert np.abs(ratio.mean() / mean_variance / np.array(TRUSTS) - 1).min() < 0.01


@pytest.mark.parametrize("trust", TRUSTS)
def test_the_second_half_tells_how_far_the_first_is_believed(trust):
    """One weight of 1 and H = 1: the first half asks for 1 more, which lambda makes 1 / (1 + lambda)."""
    one, asked = np.ones((1, 1, 1)), np.full((1, 1, 1), 1 / (1 + trust))
    fitted = refit(one, [(one, one), (one, asked)])
    np.testing.assert_allclose(fitted - 1, (1 + asked) / 2 / (1 + trust), rtol=0.01)


def test_a_channel_that_shrank_is_made_up_for_by_its_weights():
    x, weights = inputs(), np.ones((1, 2, 8))
    distorted = x.copy()
    distorted[:, :, 3] *= 0.5
    step = refit(weights, halves_of(x, distorted))[0, 0] - weights[0, 0]
    assert step[3] == step.max() > 0.1


@pytest.mark.parametrize("count", [12, 40])
def test_what_only_one_half_says_is_not_followed(count):
    """Noise that has nothing to do with what is read: with few images it seems to."""
    followed = []
    for _ in range(40):
        x, weights = inputs(count=count), RNG.standard_normal((1, 5, 8))
        noise = 0.3 * RNG.standard_normal(x.shape)
        fitted = refit(weights, halves_of(x + noise, x))
        others = inputs(count=4000)
        followed.append(float(lost(weights, fitted, others, others)[0] / (others @ weights.transpose(0, 2, 1)).var()))
    assert np.median(followed) < 0.01  # the best fit to all of it would lose more


def test_halves_that_contradict_each_other_leave_the_weights():
    x, weights = inputs(), RNG.standard_normal((1, 5, 8))
    first, second = halves_of(x, 0.8 * x)
    opposite = [(first[0], first[1]), (second[0], -second[1])]
    np.testing.assert_array_equal(refit(weights, opposite), weights)


def test_a_group_that_reads_nothing_keeps_its_weights():
    x, weights = inputs(2), RNG.standard_normal((2, 5, 8))
    x[1] = 0
    distorted = 0.7 * x
    fitted = refit(weights, halves_of(x, distorted))
    np.testing.assert_array_equal(fitted[1], weights[1])
    assert lost(weights, fitted, x, distorted)[0] < 0.5 * lost(weights, weights, x, distorted)[0]
