"""What a model with several inputs is fed with beside its image: a second image, a mask, sizes, vectors, numbers.

Types, shapes and names say what an input is for. Where they leave it open there are several ways to feed it, and the
first with which the model runs is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.procedural import procedural

Role = Literal["image", "field", "size", "noise", "small", "binary", "ones", "zeros", "given"]
WORDS: dict[Role, str] = {
    "image": "the next image",
    "field": "grey images, 0 to 1",
    "size": "the height and width of the image",
    "noise": "normal random numbers",
    "small": "random whole numbers, 1 to 4",
    "binary": "random zeros and ones",
    "ones": "ones",
    "zeros": "zeros",
    "given": "what --images holds for it",
}
SIZE = re.compile(r"(?<!batch)(?<!batch_)size|shape|info|hw")
SCALE, MASK = re.compile("scale|factor|ratio"), re.compile("mask")
LONGEST_SIZE = 6  # numbers: height, width, and scales
SMALLEST_SIDE = 16  # of what can be an image though it is not as large as the leading one

Dims = list[int | str]  # as a file has them: a name or "" where they are free


@dataclass(frozen=True)
class Leading:
    """What other inputs see of the image input. dims: as in the file. shape: of one image, in the model's layout."""

    dims: Dims
    shape: tuple[int, int, int]
    layout: str
    dtype: np.dtype

    @property
    def channels(self) -> int:
        return self.shape[2 if self.layout == "NHWC" else 0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[:2] if self.layout == "NHWC" else self.shape[1:]


@dataclass(frozen=True)
class OtherInput:
    """An input that is no image, or not the leading one.

    shape: beside one image if ``per_image``, else always. size: height and width of the leading image. given: what role
    "given" shows, [M, *shape] if ``per_image``.
    """

    name: str
    shape: tuple[int, ...]
    per_image: bool
    dtype: np.dtype
    role: Role
    size: tuple[int, int]
    given: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def bounded(self) -> bool:
        """Whether values in use can be taken to lie in the range of these; not so for sizes and scales."""
        return self.role != "size" and not (self.role in ("ones", "zeros") and self.dtype.kind == "f")

    def full_shape(self, images: int) -> tuple[int, ...]:
        """The shape for a batch of ``images``."""
        return (images, *self.shape) if self.per_image else self.shape

    def values(self, rows: range, images: Sequence[np.ndarray] = ()) -> np.ndarray:
        """What stands beside the images of these numbers, always the same for the same number. images: for role
        "image", as the model wants them, the one to show beside each."""
        if self.role == "image":
            found = [image[np.ix_(*resized(image.shape, self.shape[-3:]))] for image in images]
        else:
            found = [self._one(row) for row in (rows if self.per_image else range(1))]
        return (np.stack(found) if self.per_image else found[0].reshape(self.shape)).astype(self.dtype)

    def _one(self, row: int) -> np.ndarray:
        rng = np.random.default_rng([*self.name.encode(), row])
        match self.role:
            case "given":
                assert self.given is not None
                return self.given[row % len(self.given)] if self.per_image else self.given
            case "field":
                height, width = self.shape[-2:] if self.shape[-1] != 1 else self.shape[-3:-1]
                drawn = procedural(1, 1, height, width, rng).reshape(self.shape)
                return drawn if self.dtype == np.uint8 else drawn / 255
            case "size":
                numbers = np.array([*self.size, *[1] * (LONGEST_SIZE - 2)])
                return np.broadcast_to(numbers[: self.shape[-1]] if self.shape else numbers[0], self.shape)
            case "noise":
                return rng.standard_normal(self.shape)
            case "small":
                return rng.integers(1, 5, self.shape)
            case "binary":
                return rng.integers(0, 2, self.shape)
            case "ones":
                return np.ones(self.shape)
            case _:
                return np.zeros(self.shape)

    def reordered(self, rows: np.ndarray) -> OtherInput:
        """The same, where images now lie in this order."""
        if self.given is None or not self.per_image:
            return self
        return replace(self, given=self.given[rows % len(self.given)])

    def describe(self) -> str:
        """One line for the report."""
        shape = "x".join(map(str, ("N", *self.shape) if self.per_image else self.shape)) or "scalar"
        return f"input {self.name} ({self.dtype} {shape}) is fed with {WORDS[self.role]}"


def resized(have: Sequence[int], wanted: Sequence[int]) -> list[np.ndarray]:
    """For each axis the places to take, so that a tensor of shape ``have`` gets the shape ``wanted``."""
    return [np.arange(new) * old // new for old, new in zip(have, wanted, strict=True)]


def dims_of(entry: onnx.ValueInfoProto) -> Dims:
    """The dimensions of a tensor as the file has them."""
    return [size.dim_value or size.dim_param for size in entry.type.tensor_type.shape.dim]


def ways_to_feed(entry: onnx.ValueInfoProto, leading: Leading, given: Mapping[str, np.ndarray]) -> list[OtherInput]:
    """How an input may be fed, the likeliest way first. given: arrays that the user has, by the name of the input.

    Raises OnnxdfqError for an input that is no tensor of numbers, and for an array that does not fit.
    """
    kind = entry.type.tensor_type
    if not entry.type.HasField("tensor_type") or kind.elem_type in (0, onnx.TensorProto.STRING):
        raise OnnxdfqError(f"input {entry.name} is no tensor of numbers", "only such inputs can be fed beside an image")
    dtype, dims, name = helper.tensor_dtype_to_np_dtype(kind.elem_type), dims_of(entry), entry.name
    per_image = bool(dims) and (isinstance(dims[0], str) or dims[0] == leading.dims[0])
    shape = _resolved(dims, leading)[per_image:]
    if name in given:
        array = given[name]
        _check_given(name, array, dims, per_image, dtype)
        shape = array.shape[per_image:]
        return [OtherInput(name, shape, per_image, dtype, "given", leading.size, given=array)]
    rank = len(dims)
    roles = _roles(name.lower(), shape if per_image or rank < 4 else shape[1:], rank, dtype, leading)
    return [OtherInput(name, shape, per_image, dtype, role, leading.size) for role in roles]


def _resolved(dims: Dims, leading: Leading) -> tuple[int, ...]:
    """Axes that are free get the length of the image's axis of the same name, in a tensor of four axes that of the
    same place, else 1."""
    lengths = (1, *leading.shape)
    named = {name: length for name, length in zip(leading.dims, lengths, strict=True) if name}
    same_place = lengths if len(dims) == 4 else [1] * len(dims)
    return tuple(
        size if isinstance(size, int) else named.get(size, instead)
        for size, instead in zip(dims, same_place, strict=True)
    )


def _roles(name: str, shape: tuple[int, ...], rank: int, dtype: np.dtype, leading: Leading) -> tuple[Role, ...]:
    """shape: beside one image. rank: with the batch."""
    floating = dtype.kind == "f"
    if (floating or dtype == np.uint8) and rank > 2:
        looks = _looks(shape, leading)
        if looks == "image" and dtype == leading.dtype and not MASK.search(name):
            return ("image",)
        if looks and (looks == "field" or leading.channels == 1):
            return ("field",)
    if MASK.search(name) or dtype.kind == "b":
        return ("ones", "zeros")
    if SIZE.search(name) and rank <= 2 and (shape[-1] if shape else 1) <= LONGEST_SIZE:
        return ("size", "ones")
    if SCALE.search(name):
        return ("ones",)
    return ("noise", "ones", "zeros") if floating else ("small", "binary", "ones", "zeros")


def _looks(shape: tuple[int, ...], leading: Leading) -> Literal["image", "field", ""]:
    """Whether a tensor has the form of an image, or of something about each pixel."""
    if shape == leading.size:
        return "field"
    if len(shape) != 3:
        return ""
    channels, *sides = shape if leading.layout == "NCHW" else (shape[2], *shape[:2])
    if tuple(sides) != leading.size and min(sides) < SMALLEST_SIDE:
        return ""
    if channels == leading.channels:
        return "image"
    return "field" if channels == 1 else ""


def check_rows(others: Sequence[OtherInput], images: int) -> None:
    """Raises OnnxdfqError for an array of the user's that has not one row for each of so many images."""
    for other in others:
        if other.given is not None and other.per_image and len(other.given) != images:
            raise OnnxdfqError(
                f"the array {other.name} in the npz has {len(other.given)} rows for {images} images",
                "give one for each, in the same order",
            )


def _check_given(name: str, array: np.ndarray, dims: Dims, per_image: bool, dtype: np.dtype) -> None:
    kinds = "iu" if dtype.kind in "iu" else dtype.kind
    fits = array.ndim == len(dims) and array.size and array.dtype.kind in kinds
    fixed = list(zip(dims, array.shape, strict=False))[per_image:]
    if not fits or any(isinstance(size, int) and size != have for size, have in fixed):
        wanted = ", ".join(str(size or "?") for size in ["N" if per_image else dims[0], *dims[1:]])
        raise OnnxdfqError(
            f"the array {name} in the npz is {array.dtype} {list(array.shape)}, the model's input {dtype} [{wanted}]",
            "save it as the model reads it, in the order of images",
        )
