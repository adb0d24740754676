"""Images that a user has, and files of images that onnxdfq made.

Pixels in files are RGB or grey. Where the model orders colours otherwise, InputDomain.from_rgb does the rest.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.model_input import ModelInput
from onnxdfq.model_file import write_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ENLARGED = 256 / 224  # photographs are scaled to a little more than the input, then cropped in the middle


def read_images(
    source: Path, into: ModelInput, *, labelled: bool = False, most: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels [N, C, H, W] uint8 at the model's size, and labels: classes [N] int64, shares of classes [N, K] float32,
    or None where nothing is known.

    source: a folder with images in it, a folder with one folder per class (classes are numbered in alphabetical
    order), or an npz with ``images`` (uint8 [N, H, W, C], [N, C, H, W] or [N, H, W]) and, if known, ``labels``. Hidden
    files and folders are passed over. Photographs are turned upright as their EXIF data says and lose transparency;
    colours become luminance for a model with one channel, and grey is repeated for one with three.

    labelled: classes [N] are demanded, and an npz has to have the channels of the model. most: of a folder with more
    images, so many are read, spread over all.

    Raises OnnxdfqError when there is nothing usable.
    """
    if source.is_dir():
        return _read_folder(source, into, labelled, most)
    if not source.is_file():
        raise OnnxdfqError(f"{source} does not exist", _wanted(labelled))
    return _read_npz(source, into, labelled)


def write_images(path: Path, pixels: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Write an npz that read_images reads, whole or not at all; equal images give equal bytes.

    pixels: RGB or grey [N, C, H, W], whole numbers 0..255. labels: classes [N] or shares of classes [N, K].

    Raises OnnxdfqError when the file system refuses.
    """
    arrays = {"images": np.ascontiguousarray(pixels.astype(np.uint8).transpose(0, 2, 3, 1))}
    if labels is not None:
        arrays["labels"] = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)  # numpy dates all members 1980-01-01
    write_bytes(file.getvalue(), path)


def _wanted(labelled: bool) -> str:
    return "--eval takes a folder of images by class, or an npz" if labelled else "give a folder of images, or an npz"


# -- folders


def _read_folder(
    source: Path, into: ModelInput, labelled: bool, most: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        astray = [] if labelled else _images_in(source)
        classes = [_images_in(folder) for folder in _visible(source) if folder.is_dir()]
    except OSError as error:
        raise OnnxdfqError(f"{source} can't be read: {error.strerror}") from error
    if astray and any(classes):
        raise OnnxdfqError(
            f"{source} holds images beside folders of images, as {astray[0].name}",
            "put all of them into folders by class, or none",
        )
    paths = astray or [path for paths in classes for path in paths]
    if not paths:
        if labelled:
            raise OnnxdfqError(f"{source} holds no images in folders by class", "--eval expects FOLDER/CLASS/IMAGE.png")
        kinds = ", ".join(suffix.removeprefix(".") for suffix in SUFFIXES)
        raise OnnxdfqError(f"{source} holds no images ({kinds})", "put them into it, or into one folder per class")
    if into.channels not in (1, 3):
        raise OnnxdfqError(
            f"the model takes {into.channels} channels, the images in {source} have 1 or 3", "give an npz"
        )
    labels = None if astray else np.repeat(np.arange(len(classes)), [len(paths) for paths in classes])
    if most is not None and len(paths) > most:
        taken = np.linspace(0, len(paths) - 1, most).astype(int)
        paths, labels = [paths[place] for place in taken], labels[taken] if labels is not None else None
    images = np.empty((len(paths), into.channels, into.height, into.width), np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[:] = _read_picture(path, into)
    return images, labels


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.suffix.lower() in SUFFIXES and not path.is_dir()]


def _read_picture(path: Path, into: ModelInput) -> np.ndarray:
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):  # 16 bits a pixel: the upper eight, as Pillow reads 16-bit colours
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            picture = picture.convert("L" if into.channels == 1 else "RGB")
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise OnnxdfqError(f"{path} can't be read as an image") from error
    pixels = np.asarray(_fit(picture, into))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


# -- npz


def read_arrays(source: Path) -> dict[str, np.ndarray]:
    """What else an npz with images holds, by name: arrays for other inputs of the model. Empty for whatever is no npz,
    of which read_images says more."""
    try:
        with np.load(source, allow_pickle=False) as data:
            return {name: data[name] for name in data.files if name not in ("images", "labels")}
    except Exception:  # a folder, no file, a damaged one
        return {}


def _read_npz(source: Path, into: ModelInput, labelled: bool) -> tuple[np.ndarray, np.ndarray | None]:
    expected = "images and labels" if labelled else "images"
    try:
        with np.load(source, allow_pickle=False) as data:
            images, labels = data["images"], data["labels"] if labelled or "labels" in data else None
    except Exception as error:  # zip, deflate and numpy headers each fail in ways of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OnnxdfqError(f"{source} is no npz with {expected}: {reason}", "save it with numpy.savez") from error
    rule, found = "images have to be uint8 [N, H, W, C]", f"{images.dtype} {list(images.shape)}"
    if not images.size:
        raise OnnxdfqError(f"{source} holds no images: {rule}, found {found}")
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise OnnxdfqError(f"{source}: {rule}, found {found}", "save pixels 0..255, as they are before normalization")
    if labels is not None and labels.shape[:1] != images.shape[:1]:
        raise OnnxdfqError(f"{source}: {rule}, with one label each; found {found} and labels {list(labels.shape)}")
    images = _channels_first(images, source, into, labelled)
    if images.shape[1:] != (into.channels, into.height, into.width):
        images = np.stack([_fit_array(image, into) for image in images])
    return images, None if labels is None else _checked(labels, source, labelled)


def _channels_first(images: np.ndarray, source: Path, into: ModelInput, labelled: bool) -> np.ndarray:
    """Images [N, C, H, W]. Axes are told apart by the number of channels, the last being looked at first."""
    images = images[..., None] if images.ndim == 3 else images
    convertible = into.channels in (1, 3) and not labelled
    for channels in (into.channels, 3, 1) if convertible else (into.channels,):
        if images.shape[3] == channels:
            return images.transpose(0, 3, 1, 2)
        if images.shape[1] == channels:
            return images
    raise OnnxdfqError(f"{source} has {images.shape[3]} channels, the model takes {into.channels}")


def _fit_array(image: np.ndarray, into: ModelInput) -> np.ndarray:
    """[C, H, W] with the channels and the size of the model."""
    planes = [Image.fromarray(plane) for plane in image]
    if into.channels == 1 and len(planes) == 3:
        planes = [Image.merge("RGB", planes).convert("L")]
    fitted = np.stack([np.asarray(_fit(plane, into)) for plane in planes])
    return np.repeat(fitted, into.channels // len(fitted), axis=0)


def _checked(labels: np.ndarray, source: Path, labelled: bool) -> np.ndarray:
    if labels.ndim == 1 and labels.dtype.kind in "iu" and labels.min() >= 0:
        return labels.astype(np.int64)
    if labelled:
        raise OnnxdfqError(f"{source}: labels have to be whole numbers [N], 0 or more")
    if labels.ndim != 2 or labels.dtype.kind != "f":
        raise OnnxdfqError(
            f"{source}: labels have to be whole numbers [N], 0 or more, or float shares of classes [N, K]"
        )
    if not (labels >= 0).all() or not np.allclose(labels.sum(1, dtype=np.float64), 1, atol=0.01):
        raise OnnxdfqError(f"{source}: labels [N, K] have to be shares of classes, each row adding up to 1")
    return labels.astype(np.float32)


def _fit(picture: Image.Image, into: ModelInput) -> Image.Image:
    """Scaled so that the short side is a little more than needed, then the middle."""
    if picture.size == (into.width, into.height):
        return picture
    factor = max(into.width / picture.width, into.height / picture.height) * ENLARGED
    size = (max(into.width, round(picture.width * factor)), max(into.height, round(picture.height * factor)))
    left, top = (size[0] - into.width) // 2, (size[1] - into.height) // 2
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    return picture.crop((left, top, left + into.width, top + into.height))
