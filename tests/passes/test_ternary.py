"""Three values, and the scale that serves them best."""

from __future__ import annotations

import numpy as np
import pytest

from passes.ternary import ternary

RNG = np.random.default_rng(10)
KERNELS = RNG.standard_normal((6, 5, 9)) * np.array([0.01, 0.1, 1, 1, 2, 5])[:, None, None]


@pytest.mark.parametrize("per_channel", [True, False])
def test_codes_are_signs_of_what_is_above_the_threshold(per_channel):
    codes, scale = ternary(KERNELS, per_channel=per_channel)
    assert (codes.dtype, codes.shape, scale.shape) == (np.int8, KERNELS.shape, (6,))
    threshold = 0.7 * np.abs(KERNELS).mean((1, 2) if per_channel else None, keepdims=True)
    np.testing.assert_array_equal(codes, np.where(np.abs(KERNELS) > threshold, np.sign(KERNELS), 0))


def test_the_scale_is_that_of_least_squares():
    codes, scale = ternary(KERNELS, per_channel=True)
    np.testing.assert_allclose(scale, (codes * KERNELS).sum((1, 2)) / np.square(codes, dtype=float).sum((1, 2)))
    codes, scale = ternary(KERNELS, per_channel=False)
    np.testing.assert_allclose(scale, np.full(6, (codes * KERNELS).sum() / np.square(codes, dtype=float).sum()))
    assert not codes[0].any()  # small channels vanish beside large ones


def test_a_channel_of_zeros_has_no_scale():
    codes, scale = ternary(np.zeros((1, 2, 3)), per_channel=True)
    assert not codes.any()
    assert scale == 0


def test_ternary_weights_stay_what_they_are():
    values = np.array([[[0.0, -3, 3, 0, 3]]])
    codes, scale = ternary(values, per_channel=True)
    np.testing.assert_array_equal(codes * scale, values)
