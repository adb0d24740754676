"""Sheets of images: what is on them, and where."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from onnxdfq.images.contact_sheet import PAPER, contact_sheet

RED = np.array([255, 0, 0])
BACKGROUND = int(PAPER[1:3], 16)


def coloured(count, height, width):
    """Images all in red."""
    return np.tile(RED.reshape(1, 3, 1, 1), (count, 1, height, width)).astype(np.float32)


def sheet(pixels, labels=None, title="model.onnx"):
    """The sheet [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(contact_sheet(pixels, labels, title))).convert("RGB"))


def found(shown, colour=RED):
    """Rows and columns of the pixels that have a colour."""
    return np.nonzero((shown == colour).all(-1))


@pytest.mark.parametrize(
    ("height", "width", "cell"),
    [(32, 32, (128, 128)), (28, 28, (112, 112)), (224, 224, (128, 128)), (100, 90, (100, 90)), (512, 256, (128, 64))],
)
def test_cells_are_of_a_size_to_look_at(height, width, cell):
    rows, columns = found(sheet(coloured(1, height, width)))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == cell


def test_small_images_keep_their_pixels():
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16))
    shown = sheet(image)
    block = np.kron(image[0].transpose(1, 2, 0), np.ones((8, 8, 1), int))
    top, left = np.argwhere((shown != BACKGROUND).any(-1) & (np.arange(len(shown)) > 36)[:, None])[0]
    np.testing.assert_array_equal(shown[top : top + 128, left : left + 128], block)


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (5, 2, 3), (12, 3, 4), (64, 8, 8), (99, 8, 8)]
)
def test_images_stand_in_a_grid(count, rows, columns):
    """Of 99 the first 64 are shown; nothing overlaps, nothing is cut off."""
    shown = sheet(coloured(count, 128, 128))
    assert len(found(shown)[0]) == min(count, 64) * 128 * 128
    for place, expected in zip(found(shown), (rows, columns), strict=True):
        assert len(np.unique(place)) == expected * 128


def test_images_come_row_by_row():
    images = coloured(4, 128, 128) * np.reshape([1, 0.8, 0.6, 0.4], (4, 1, 1, 1))
    shown = sheet(images)
    corners = [tuple(int(place.min()) for place in found(shown, image[:, 0, 0])) for image in images]
    assert corners == sorted(corners)


def test_grey_images_are_grey():
    shown = sheet(np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28)), np.array([1, 2, 3]))
    assert (shown == shown[..., :1]).all()


def test_labels_are_written_under_the_images():
    images = coloured(2, 128, 128)
    bare, hard = sheet(images), sheet(images, np.array([3, 281]))
    soft = sheet(images, np.array([[0.7, 0.3], [0.02, 0.98]], np.float32))
    assert len(bare) < len(hard) < len(soft)  # no line, one, two
    bottom = found(hard)[0].max() + 1
    columns = np.nonzero((hard[bottom:] != BACKGROUND).any((0, 2)))[0]
    middle = (found(hard)[1].min() + found(hard)[1].max()) / 2
    ink = [columns[columns < middle], columns[columns > middle]]
    assert 0 < np.ptp(ink[0]) < np.ptp(ink[1])  # "3" is shorter than "281"


def test_captions_of_narrow_images_do_not_run_into_each_other():
    shown = sheet(coloured(2, 128, 8), np.array([[1.0], [1.0]], np.float32))
    bottom = found(shown)[0].max() + 1
    ink = np.nonzero((shown[bottom:] != BACKGROUND).any((0, 2)))[0]
    assert np.diff(ink).max() > 30


def test_a_title_stands_on_top_and_is_cut_where_too_long():
    images = coloured(1, 32, 32)
    shown = sheet(images, title="model.onnx: inversion, seed 0")
    assert (shown[: found(shown)[0].min()] != BACKGROUND).any()
    assert shown.shape[1] > sheet(images, title="m").shape[1]
    assert sheet(images, title="long" * 500).shape[1] < 700


def test_equal_images_give_equal_bytes():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 224, 224)).astype(np.float32)
    assert contact_sheet(images, np.arange(5), "t") == contact_sheet(images.copy(), np.arange(5), "t")
    assert contact_sheet(images, np.arange(5), "t") != contact_sheet(images, np.arange(5) + 1, "t")
