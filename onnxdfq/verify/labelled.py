"""Labelled images that a user has: a folder with one folder per class, or an npz of images and labels."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.model_input import ModelInput
from onnxdfq.verify.agreement import is_scores

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
ENLARGED = 256 / 224  # photographs are scaled to a little more than the input, then cropped in the middle


def read_labelled(source: Path, into: ModelInput) -> tuple[np.ndarray, np.ndarray]:
    """RGB or grey pixels [N, C, H, W] uint8 at the model's size, and labels [N].

    An npz holds ``images`` ([N, H, W, C], [N, C, H, W] or [N, H, W], uint8) and ``labels``. In a folder, classes are
    its subfolders in alphabetical order.

    Raises OnnxdfqError when there is nothing usable.
    """
    if source.is_dir():
        return _read_folder(source, into)
    if not source.is_file():
        raise OnnxdfqError(f"{source} does not exist", "--eval takes a folder of images by class, or an npz")
    try:
        with np.load(source, allow_pickle=False) as data:
            images, labels = data["images"], data["labels"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise OnnxdfqError(f"{source} is no npz with images and labels: {error}", "save it with numpy.savez") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels) or not len(images):
        raise OnnxdfqError(f"{source}: images have to be uint8 [N, H, W, C], one label each")
    if labels.dtype.kind not in "iu":
        raise OnnxdfqError(f"{source}: labels have to be whole numbers")
    images = images[:, None] if images.ndim == 3 else images
    if images.shape[1] != into.channels:
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1] != into.channels:
        raise OnnxdfqError(f"{source} has {images.shape[1]} channels, the model takes {into.channels}")
    if images.shape[2:] != (into.height, into.width):
        images = np.stack([_fit(Image.fromarray(_picture(each)), into) for each in images])
    return images, labels.astype(np.int64)


def accuracy(session: Session, batches: Iterable[Mapping[str, np.ndarray]], labels: np.ndarray) -> float:
    """Top-1 in percent of the first output against labels [N]. Raises OnnxdfqError when it is no vector of scores."""
    scores = [next(iter(outputs.values())) for outputs in session.stream(batches)]
    if not scores:
        raise OnnxdfqError("--eval has fewer images than the model takes at once")
    if not is_scores(scores[0]):
        raise OnnxdfqError("--eval needs a classifier; the first output is no vector of scores", "leave --eval out")
    predicted = np.concatenate([each.reshape(len(each), -1) for each in scores]).argmax(1)
    return 100 * float((predicted == labels[: len(predicted)]).mean())


def _read_folder(source: Path, into: ModelInput) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for label, folder in enumerate(sorted(each for each in source.iterdir() if each.is_dir())):
        for path in sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES):
            try:
                with Image.open(path) as picture:
                    images.append(_fit(picture.convert("L" if into.channels == 1 else "RGB"), into))
            except (OSError, UnidentifiedImageError) as error:
                raise OnnxdfqError(f"{path} can't be read as an image") from error
            labels.append(label)
    if not images:
        raise OnnxdfqError(f"{source} holds no images in folders by class", "--eval expects FOLDER/CLASS/IMAGE.png")
    return np.stack(images), np.array(labels)


def _picture(pixels: np.ndarray) -> np.ndarray:
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def _fit(picture: Image.Image, into: ModelInput) -> np.ndarray:
    """Scaled so that the short side is a little more than needed, then the middle: [C, H, W] uint8."""
    if picture.size != (into.width, into.height):
        factor = max(into.width / picture.width, into.height / picture.height) * ENLARGED
        size = (max(into.width, round(picture.width * factor)), max(into.height, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - into.width) // 2, (size[1] - into.height) // 2
        picture = picture.crop((left, top, left + into.width, top + into.height))
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
