"""Labelled images from folders and npz files, and errors that a user can read."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser
from PIL import Image

from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.model_input import ModelInput
from onnxdfq.verify.labelled import accuracy, read_labelled

RNG = np.random.default_rng(0)


def into(channels=3, height=8, width=8, layout="NCHW", batch=None):
    return ModelInput("x", channels, height, width, layout, batch, np.dtype(np.float32))


def pixels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def refused(source, model=None):
    with pytest.raises(OnnxdfqError) as caught:
        read_labelled(source, model or into())
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


def npz(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


# -- npz


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_first_or_last(tmp_path, channels):
    first = pixels(5, channels, 8, 8)
    for images in (first, first.transpose(0, 2, 3, 1)):
        found, labels = read_labelled(npz(tmp_path, images=images, labels=np.arange(5)), into(channels))
        np.testing.assert_array_equal(found, first)
        assert found.dtype == np.uint8
        assert (labels.tolist(), labels.dtype) == ([0, 1, 2, 3, 4], np.int64)


def test_grey_images_need_no_axis_for_the_channel(tmp_path):
    grey = pixels(4, 8, 8)
    found, _ = read_labelled(npz(tmp_path, images=grey, labels=[0, 1, 2, 3]), into(1))
    np.testing.assert_array_equal(found, grey[:, None])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (8, 20), (40, 12), (4, 4)])
def test_images_of_another_size_are_fitted(tmp_path, channels, size):
    images = np.full((2, channels, *size), 77, np.uint8)
    found, _ = read_labelled(npz(tmp_path, images=images, labels=[0, 1]), into(channels, 8, 12))
    assert found.shape == (2, channels, 8, 12)
    assert (found == 77).all()


def test_fitting_keeps_the_middle(tmp_path):
    images = np.zeros((1, 64, 128, 3), np.uint8)
    images[:, :, 40:88] = 255  # the middle; the sides are black
    found, _ = read_labelled(npz(tmp_path, images=images, labels=[0]), into())
    assert found[0, :, 2:6, 2:6].min() > 250


def test_what_is_no_npz_of_images_and_labels_is_refused(tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing.npz")
    assert "labels" in refused(npz(tmp_path, images=pixels(2, 8, 8, 3)))
    assert "images" in refused(npz(tmp_path, labels=[1]))
    (tmp_path / "text.npz").write_text("hello")
    refused(tmp_path / "text.npz")
    np.save(tmp_path / "array.npy", pixels(2, 8, 8, 3))
    refused(tmp_path / "array.npy")
    whole = npz(tmp_path, images=pixels(2, 8, 8, 3), labels=[0, 1]).read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.npz")
    refused(npz(tmp_path, images=np.array([{"a": 1}], dtype=object), labels=[1]))  # nothing is ever unpickled


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8), np.uint8),
        np.zeros((3, 8, 8, 3), np.uint8),  # two labels
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_images_have_to_be_bytes_with_one_label_each(tmp_path, images):
    labels = [] if not len(images) else [0, 1]
    assert "images have to be uint8" in refused(npz(tmp_path, images=images, labels=labels))


def test_a_wrong_number_of_channels_is_refused(tmp_path):
    assert "channels, the model takes 3" in refused(npz(tmp_path, images=pixels(2, 8, 8, 4), labels=[0, 1]))
    assert "channels, the model takes 3" in refused(npz(tmp_path, images=pixels(2, 8, 8), labels=[0, 1]))


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.npz").write_bytes(b"")
    refused(tmp_path / "empty.npz")


def test_labels_that_are_words_are_refused(tmp_path):
    refused(npz(tmp_path, images=pixels(2, 8, 8, 3), labels=["cat", "dog"]))


# -- folders


def test_classes_are_folders_in_alphabetical_order(tmp_path):
    values = {"b/1.png": 10, "b/0.PNG": 20, "a/x.bmp": 30, "c/deep.webp": 40, "a/y.jpeg": 50}
    for name, value in values.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / name, format=None if "webp" not in name else "PNG")
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    Image.new("RGB", (8, 8)).save(tmp_path / "astray.png")  # in no class
    images, labels = read_labelled(tmp_path, into())
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 0, 1, 1, 2]
    assert [int(round(float(image.mean()), -1)) for image in images] == [30, 50, 20, 10, 40]


def test_colours_are_in_the_order_rgb_and_grey_models_see_grey(tmp_path):
    (tmp_path / "only").mkdir()
    Image.new("RGBA", (9, 9), (200, 100, 50, 255)).save(tmp_path / "only" / "a.png")
    images, _ = read_labelled(tmp_path, into())
    assert images[0, :, 4, 4].tolist() == [200, 100, 50]
    grey, _ = read_labelled(tmp_path, into(1))
    assert grey.shape == (1, 1, 8, 8)
    assert grey[0, 0, 4, 4] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1)


def test_an_empty_class_still_counts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "b" / "0.png")
    assert read_labelled(tmp_path, into())[1].tolist() == [1]


def test_a_folder_without_images_and_a_broken_image_are_refused(tmp_path):
    assert "holds no images" in refused(tmp_path)
    (tmp_path / "a").mkdir()
    assert "holds no images" in refused(tmp_path)
    (tmp_path / "a" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    assert "bad.png can't be read as an image" in refused(tmp_path)


# -- accuracy


def identity(shape="N,3", axes="A,B"):
    text = f"g (float[{shape}] x) => (float[{axes}] y) {{ y = Identity (x) }}"
    return Session(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}'))


def test_accuracy_is_the_share_of_right_answers_in_percent():
    answers = np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 1]]
    batches = [{"x": answers[:2]}, {"x": answers[2:]}]
    assert accuracy(identity(), batches, np.array([0, 1, 2, 2, 1])) == 100
    assert accuracy(identity(), batches, np.array([0, 1, 2, 0, 0])) == pytest.approx(60)
    assert accuracy(identity(), batches, np.array([1, 2, 0, 0, 0])) == 0


def test_images_left_over_by_a_fixed_batch_do_not_count():
    answers = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    assert accuracy(identity(), [{"x": answers}], np.array([0, 1, 2, 0, 9, 9])) == 75


def test_scores_may_have_axes_of_one():
    answers = np.eye(3, dtype=np.float32)[[0, 1, 2]].reshape(3, 3, 1, 1)
    assert accuracy(identity("N,3,1,1", "A,B,C,D"), [{"x": answers}], np.array([0, 1, 0])) == pytest.approx(200 / 3)


def test_what_is_no_vector_of_scores_is_refused():
    maps = np.zeros((2, 3, 4, 4), np.float32)
    with pytest.raises(OnnxdfqError):
        accuracy(identity("N,3,4,4", "A,B,C,D"), [{"x": maps}], np.array([0, 1]))


def test_fewer_images_than_a_fixed_batch_are_refused():
    with pytest.raises(OnnxdfqError):
        accuracy(identity(), [], np.array([0, 1]))
