"""Pixels become what the model was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.domain import PRESETS, domain, given, preset
from onnxdfq.images.model_input import ModelInput

RNG = np.random.default_rng(0)


def into(channels=3, layout="NCHW", dtype=np.float32):
    return ModelInput("x", channels, 4, 6, layout, None, np.dtype(dtype))


def pixels(channels=3):
    return RNG.integers(0, 256, (2, channels, 4, 6)).astype(np.float32)


EXPECTED = {  # preset -> what black and white become, by channel
    "unit": ([0, 0, 0], [1, 1, 1]),
    "pm1": ([-1, -1, -1], [1, 1, 1]),
    "raw255": ([0, 0, 0], [255, 255, 255]),
    "imagenet": ([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]),
    "caffe": ([-104, -117, -123], [151, 138, 132]),
}


def test_every_preset_is_tried_below():
    assert set(EXPECTED) == set(PRESETS)


@pytest.mark.parametrize("name", EXPECTED)
def test_black_and_white_arrive_as_the_preset_says(name):
    found = preset(name, 3, "test")
    for pixel, expected in zip((0, 255), EXPECTED[name], strict=True):
        values = found.to_model(np.full((1, 3, 4, 6), pixel, np.float32), into())
        np.testing.assert_allclose(values[0, :, 2, 3], expected, rtol=1e-5, atol=1e-6)
        assert values.dtype == np.float32
    assert found.low == pytest.approx(min(EXPECTED[name][0]), rel=1e-5)
    assert found.high == pytest.approx(max(EXPECTED[name][1]), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_preset_fits_any_number_of_channels_and_no_image_leaves_its_bounds(name, channels):
    found = preset(name, channels, "test")
    assert len(found.mean) == len(found.std) == channels
    values = found.to_model(pixels(channels), into(channels))
    assert values.shape == (2, channels, 4, 6)
    assert found.low - 1e-4 <= values.min() < values.max() <= found.high + 1e-4


def test_a_grey_image_under_a_colour_preset_has_the_average():
    found = preset("imagenet", 1, "test")
    assert found.mean == pytest.approx((np.mean([123.675, 116.28, 103.53]),))


def test_an_unknown_preset_is_refused_with_those_that_exist():
    with pytest.raises(OnnxdfqError, match="no input domain is called cafe") as caught:
        preset("cafe", 3, "test")
    assert all(name in caught.value.hint for name in PRESETS)
    assert "\n" not in str(caught.value)


def test_channels_last_moves_the_channels_and_nothing_else():
    found, images = preset("imagenet", 3, "test"), pixels()
    last = found.to_model(images, into(layout="NHWC"))
    assert last.shape == (2, 4, 6, 3)
    assert last.flags.c_contiguous
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), found.to_model(images, into()))


def test_a_uint8_input_gets_the_pixels_themselves():
    images = pixels()
    values = preset("raw255", 3, "test").to_model(images + 0.3, into(layout="NHWC", dtype=np.uint8))
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, images.transpose(0, 2, 3, 1))


def test_colours_are_turned_for_models_that_want_blue_first():
    images = pixels()
    np.testing.assert_array_equal(preset("caffe", 3, "test").from_rgb(images), images[:, [2, 1, 0]])
    np.testing.assert_array_equal(preset("imagenet", 3, "test").from_rgb(images), images)
    grey = pixels(1)
    np.testing.assert_array_equal(preset("caffe", 1, "test").from_rgb(grey), grey)


@pytest.mark.parametrize(
    ("mean", "std", "scale", "low", "high"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255, -0.485 / 0.229, 0.594 / 0.225),
        ((0.5,), (0.5,), 1 / 255, -1, 1),
        ((127.5,), (127.5,), 1.0, -1, 1),
        ((0.0,), (1.0,), 1.0, 0, 255),
        ((1.0,), (2.0, 1.0, 4.0), 2 / 255, -1, 1),
    ],
)
def test_what_the_user_gives_is_read_as_training_scripts_write_it(mean, std, scale, low, high):
    found = given(mean, std, scale, "BGR", 3)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    images = pixels()
    wide = [np.resize(np.float32(each), 3).reshape(3, 1, 1) for each in (mean, std)]
    np.testing.assert_allclose(
        found.to_model(images, into()), (images * scale - wide[0]) / wide[1], rtol=1e-4, atol=1e-4
    )
    assert found.order == "BGR"


@pytest.mark.parametrize(
    ("mean", "std", "scale"),
    [((0.5, 0.5), (1.0,), 1.0), ((0.5,), (1.0, 1.0), 1.0), ((0.5,), (0.0,), 1.0), ((0.5,), (-1.0,), 1.0),
     ((0.5,), (1.0,), 0.0), ((), (1.0,), 1.0)],
)  # fmt: skip
def test_numbers_that_make_no_domain_are_refused_in_one_line(mean, std, scale):
    with pytest.raises(OnnxdfqError) as caught:
        given(mean, std, scale, "RGB", 3)
    assert "\n" not in str(caught.value)
    assert "--" in str(caught.value)


def test_the_description_is_one_line_with_numbers_and_reason():
    text = domain("pm1", (127.5,), (127.5,), "RGB", 3, "because").describe()
    assert text == "pm1: values -1..1, RGB (because)"
