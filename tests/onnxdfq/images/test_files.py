"""Images from folders and npz files, and back: all forms that a user may bring, and errors that a user can read."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from PIL import Image

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.files import read_images, write_images
from onnxdfq.images.model_input import ModelInput
from onnxdfq.verify.labelled import read_labelled

RNG = np.random.default_rng(0)
COLOUR = (200, 100, 50)
LUMINANCE = 0.299 * 200 + 0.587 * 100 + 0.114 * 50


def into(channels=3, height=8, width=8):
    return ModelInput("x", channels, height, width, "NCHW", None, np.dtype(np.float32))


def pixels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def npz(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def picture(path, colour=COLOUR, size=(8, 8), mode="RGB"):
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def refused(source, model=None):
    with pytest.raises(OnnxdfqError) as caught:
        read_images(source, model or into())
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


# -- folders


def test_a_folder_of_images_has_no_labels(tmp_path):
    for name, value in {"b.png": 10, "a.BMP": 20, "c.jpeg": 30}.items():
        picture(tmp_path / name, (value,) * 3)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    images, labels = read_images(tmp_path, into())
    assert labels is None
    assert images.dtype == np.uint8
    assert images[:, 0, 4, 4].tolist() == pytest.approx([20, 10, 30], abs=1)


def test_a_folder_of_classes_has_labels(tmp_path):
    for name in ("dog/0.png", "cat/0.png", "dog/1.png"):
        picture(tmp_path / name)
    (tmp_path / "bird").mkdir()
    images, labels = read_images(tmp_path, into())
    assert images.shape == (3, 3, 8, 8)
    assert labels.tolist() == [1, 2, 2]


def test_images_beside_classes_are_refused(tmp_path):
    picture(tmp_path / "dog" / "0.png")
    picture(tmp_path / "astray.png")
    assert "astray.png" in refused(tmp_path)
    assert read_labelled(tmp_path, into())[1].tolist() == [0]  # but where classes are demanded they are meant


def test_hidden_files_are_passed_over(tmp_path):
    picture(tmp_path / "0.png")
    picture(tmp_path / ".thumbnails" / "0.png")
    (tmp_path / "._0.png").write_bytes(b"what macOS leaves")
    assert len(read_images(tmp_path, into())[0]) == 1


def test_an_empty_folder_is_refused(tmp_path):
    assert "holds no images" in refused(tmp_path)
    (tmp_path / "photo.tiff").write_bytes(b"")
    assert "png" in refused(tmp_path)  # what would do is named


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\nbroken", "half"])
def test_a_broken_image_is_named(tmp_path, content):
    whole = picture(tmp_path / "good.png", size=(64, 64)).read_bytes()
    (tmp_path / "bad.png").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    assert "bad.png can't be read as an image" in refused(tmp_path)


def test_every_kind_of_picture_is_seen_in_the_channels_of_the_model(tmp_path):
    folders = {
        "colour": (COLOUR, "RGB", COLOUR),
        "transparent": ((*COLOUR, 7), "RGBA", COLOUR),
        "grey": (90, "L", (90,) * 3),
        "veiled": ((90, 7), "LA", (90,) * 3),
        "deep": (90 << 8, "I;16", (90,) * 3),
        "bits": (1, "1", (255,) * 3),
    }
    for name, (colour, mode, expected) in folders.items():
        picture(tmp_path / name / "0.png", colour, mode=mode)
        assert read_images(tmp_path / name, into())[0][0, :, 4, 4].tolist() == list(expected), name
        grey = read_images(tmp_path / name, into(1))[0]
        assert grey.shape == (1, 1, 8, 8)
        weights = (0.299, 0.587, 0.114)
        assert grey[0, 0, 4, 4] == pytest.approx(np.dot(weights, expected), abs=1), name


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side: to be turned by a quarter, clockwise
    taken = np.zeros((8, 8), np.uint8)
    taken[:, :4] = 255  # light on the left, that is above once turned
    Image.fromarray(taken).save(tmp_path / "0.png", exif=exif)
    found = read_images(tmp_path, into(1))[0][0, 0]
    assert (found[:4].min(), found[4:].max()) == (255, 0)


@pytest.mark.parametrize("size", [(4, 4), (3, 9), (40, 12), (1, 1)])
def test_pictures_of_any_size_are_fitted(tmp_path, size):
    picture(tmp_path / "0.png", size=size)
    images, _ = read_images(tmp_path, into(3, 8, 12))
    assert images.shape == (1, 3, 8, 12)
    assert (images == np.reshape(COLOUR, (1, 3, 1, 1))).all()


def test_pictures_have_too_few_channels_for_some_models(tmp_path):
    picture(tmp_path / "0.png")
    assert "4 channels" in refused(tmp_path, into(4))


# -- npz


def test_axes_may_come_in_any_usual_order(tmp_path):
    first = pixels(5, 3, 8, 8)
    for images in (first, first.transpose(0, 2, 3, 1)):
        found, labels = read_images(npz(tmp_path, images=images), into())
        np.testing.assert_array_equal(found, first)
        assert labels is None


@pytest.mark.parametrize("size", [8, 20])
def test_channels_are_converted(tmp_path, size):
    grey = pixels(2, 8, 8)
    for images in (grey, grey[:, None], grey[..., None]):
        found, _ = read_images(npz(tmp_path, images=images), into())
        np.testing.assert_array_equal(found, np.repeat(grey[:, None], 3, 1))
    colour = np.tile(np.uint8(COLOUR), (2, size, size, 1))
    for images in (colour, colour.transpose(0, 3, 1, 2)):
        found, _ = read_images(npz(tmp_path, images=images), into(1))
        assert found.shape == (2, 1, 8, 8)
        assert found.mean() == pytest.approx(LUMINANCE, abs=1)


def test_other_numbers_of_channels_are_refused_or_taken_as_they_are(tmp_path):
    four = npz(tmp_path, images=pixels(2, 8, 8, 4))
    assert "4 channels, the model takes 3" in refused(four)
    assert read_images(four, into(4, 6, 6))[0].shape == (2, 4, 6, 6)
    assert "3 channels, the model takes 4" in refused(npz(tmp_path, images=pixels(2, 8, 8, 3)), into(4))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "float32"),
        (np.zeros((2, 8, 8, 3), np.int64), "int64"),
        (np.zeros((2, 8), np.uint8), "[2, 8]"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no images"),
        (np.zeros((2, 0, 8, 3), np.uint8), "no images"),
        (np.uint8(3), "[]"),
    ],
)
def test_images_have_to_be_bytes(tmp_path, images, said):
    message = refused(npz(tmp_path, images=images))
    assert said in message
    assert "images have to be uint8" in message


def test_what_is_no_npz_of_images_is_refused(tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing.npz")
    assert "images" in refused(npz(tmp_path, labels=[1]))
    refused(npz(tmp_path, images=np.array([{"a": 1}], dtype=object)))  # nothing is ever unpickled
    refused(picture(tmp_path / "0.png"))
    np.savez_compressed(tmp_path / "data.npz", images=pixels(2, 8, 8, 3))
    whole = (tmp_path / "data.npz").read_bytes()
    for place in range(40, len(whole), 60):  # broken in its header, its contents or its index
        (tmp_path / "data.npz").write_bytes(whole[:place] + bytes(60) + whole[place + 60 :])
        refused(tmp_path / "data.npz")


def test_labels_are_classes_or_shares_of_classes(tmp_path):
    images = pixels(2, 8, 8, 3)
    _, classes = read_images(npz(tmp_path, images=images, labels=np.uint8([3, 7])), into())
    assert (classes.tolist(), classes.dtype) == ([3, 7], np.int64)
    shares = np.array([[0.25, 0.75, 0], [0, 0, 1]])
    source = npz(tmp_path, images=images, labels=shares)
    found = read_images(source, into())[1]
    np.testing.assert_array_equal(found, shares)
    assert found.dtype == np.float32
    with pytest.raises(OnnxdfqError, match="whole numbers"):
        read_labelled(source, into())


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog"],
        [0.0, 1.0],
        [-1, 0],
        [[0], [1]],
        [1, 2, 3],
        3,
        [[0.5, 0.4], [0.5, 0.5]],
        [[1.5, -0.5], [0.5, 0.5]],
        [[np.nan, 1], [0.5, 0.5]],
    ],
)
def test_other_labels_are_refused(tmp_path, labels):
    assert "label" in refused(npz(tmp_path, images=pixels(2, 8, 8, 3), labels=labels))


# -- writing


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [None, np.int32([4, 0]), np.float64([[0.25, 0.75], [1, 0]])])
def test_what_is_written_reads_the_same(tmp_path, channels, labels):
    images = pixels(2, channels, 8, 8).astype(np.float32)
    write_images(tmp_path / "new" / "made.npz", images, labels)
    found, back = read_images(tmp_path / "new" / "made.npz", into(channels))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(back, labels)
    with np.load(tmp_path / "new" / "made.npz") as data:
        assert data["images"].shape == (2, 8, 8, channels)
        if labels is not None:
            assert data["labels"].dtype == (np.float32 if labels.ndim == 2 else np.int64)


def test_eval_reads_what_is_written_with_classes(tmp_path):
    images = pixels(2, 3, 8, 8)
    write_images(tmp_path / "made.npz", images, np.array([1, 0]))
    found, labels = read_labelled(tmp_path / "made.npz", into())
    np.testing.assert_array_equal(found, images)
    assert labels.tolist() == [1, 0]
    write_images(tmp_path / "made.npz", images)
    with pytest.raises(OnnxdfqError, match="labels"):
        read_labelled(tmp_path / "made.npz", into())


def test_sides_as_short_as_the_number_of_channels_are_not_mixed_up(tmp_path):
    images = pixels(4, 3, 3, 8)
    write_images(tmp_path / "made.npz", images)
    np.testing.assert_array_equal(read_images(tmp_path / "made.npz", into(3, 3, 8))[0], images)


def test_equal_images_give_equal_bytes(tmp_path):
    images = pixels(2, 3, 8, 8)
    write_images(tmp_path / "a.npz", images, np.array([1, 0]))
    write_images(tmp_path / "b.npz", np.asfortranarray(images), np.array([1, 0], np.int32))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        assert {member.date_time for member in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # no clock in it


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "taken.npz").mkdir()
    with pytest.raises(OnnxdfqError, match=r"taken\.npz can't be written"):
        write_images(tmp_path / "taken.npz", pixels(2, 3, 8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["taken.npz"]


def test_of_a_large_folder_some_are_read_spread_over_all(tmp_path):
    for kind in range(5):
        (tmp_path / f"{kind}").mkdir()
        for number in range(4):
            Image.new("L", (8, 8), 10 * kind + number).save(tmp_path / f"{kind}" / f"{number}.png")
    into = ModelInput("x", 1, 8, 8, "NCHW", None, np.dtype(np.float32))
    pixels, labels = read_images(tmp_path, into, most=5)
    assert [*labels] == [0, 1, 2, 3, 4]
    assert [*(pixels[:, 0, 0, 0] // 10)] == [*labels]
    assert len(read_images(tmp_path, into, most=50)[0]) == 20
