"""Procedural images look like photographs to the statistics that calibration cares about."""

from itertools import pairwise

import numpy as np
import pytest

from onnxdfq.images.procedural import KINDS, procedural


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return procedural(256, 3, 64, 64, np.random.default_rng(0))


def test_pixels_are_whole_numbers_from_0_to_255(many):
    assert many.shape == (256, 3, 64, 64)
    assert many.dtype == np.float32
    assert np.array_equal(many, many.astype(np.uint8))
    assert (many.min(), many.max()) == (0, 255)


def test_the_same_seed_draws_the_same_images():
    first, again, other = (procedural(8, 3, 32, 48, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_fewer_images_are_a_prefix_of_more():
    few, more = (procedural(count, 3, 32, 32, np.random.default_rng(3)) for count in (3, 8))
    assert np.array_equal(few, more[:3])


def test_kinds_take_turns(monkeypatch):
    drawn = []

    def spy(kind):
        return lambda shape, rng: drawn.append(kind.__name__) or kind(shape, rng)

    monkeypatch.setattr("onnxdfq.images.procedural.KINDS", tuple(spy(kind) for kind in KINDS))
    procedural(10, 3, 16, 16, np.random.default_rng(0))
    assert drawn[:4] == ["one_over_f", "dead_leaves", "gradients", "figure_on_ground"]
    assert drawn[4:] == drawn[:4] + drawn[:2]


@pytest.mark.parametrize("turn", range(len(KINDS)))
def test_spectrum_of_every_kind_falls_with_frequency(many, turn):
    grey = many[turn :: len(KINDS)].mean(1)
    power = (np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))) ** 2).mean(0)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    edges = np.geomspace(1.5 / 64, 0.5, 7)
    rings = [power[(radius >= low) & (radius < high)].mean() for low, high in pairwise(edges)]
    slope = np.polyfit(np.log(edges[:-1]), np.log(rings), 1)[0]
    assert -4 < slope < -1.2  # white noise has 0, photographs about -2
    assert np.all(np.diff(rings) < 0)


def test_brightness_and_contrast_spread_as_in_photographs(many):
    mean, deviation = many.mean((1, 2, 3)), many.std((1, 2, 3))
    assert 100 < mean.mean() < 125
    assert 25 < mean.std() < 45
    # The familiar 0.225 is the average deviation within a photograph; over all pixels of a set it is 0.27.
    assert 0.20 < deviation.mean() / 255 < 0.25
    assert 10 < deviation.std() < 25
    assert 0.24 < many.std() / 255 < 0.30


def test_some_images_saturate_and_some_are_dark_or_flat(many):
    assert np.mean((many == 0).mean((1, 2, 3)) > 0.02) > 0.1
    assert np.mean((many == 255).mean((1, 2, 3)) > 0.02) > 0.05
    assert np.mean(many.mean((1, 2, 3)) < 70) > 0.05
    assert np.mean(many.std((1, 2, 3)) < 35) > 0.05


@pytest.mark.parametrize("channels", [3, 7])
def test_channels_are_correlated_but_not_equal(channels):
    images = procedural(64, channels, 32, 32, np.random.default_rng(4)).reshape(64, channels, -1)
    correlation = np.mean([np.corrcoef(image)[0, -1] for image in images])
    assert 0.5 < correlation < 0.95


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 8, 8), (3, 31, 57), (3, 160, 20), (2, 33, 9), (12, 24, 40), (3, 3, 2), (1, 1, 1)]
)
def test_any_shape_can_be_drawn(shape):
    images = procedural(9, *shape, np.random.default_rng(5))
    assert images.shape == (9, *shape)
    assert np.array_equal(images, np.clip(np.rint(images), 0, 255))
    if min(shape[1:]) >= 8:
        assert np.all(images.std((1, 2, 3)) > 2)


def test_no_images_and_no_pixels():
    assert procedural(0, 3, 8, 8, np.random.default_rng(0)).shape == (0, 3, 8, 8)
    with pytest.raises(ValueError, match="cannot draw"):
        procedural(1, 3, 0, 8, np.random.default_rng(0))
