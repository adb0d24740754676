"""What the model's image input looks like: name, size, layout; and what other inputs get beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np
import onnx
from onnx import helper

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.other_inputs import MASK, Leading, OtherInput, dims_of, ways_to_feed

IMAGES = (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8)
CHANNELS = (1, 3, 4)  # of images
LEADING = (3, 0, 4, 1)  # channels of the image that leads, where there are several; 0 where they are free
MOST_WAYS = 32  # to feed other inputs that are tried
SIZES = (224, 32, 256, 320, 128, 64, 299, 512, 640, 96, 28)  # tried in this order where H and W are free


@dataclass(frozen=True)
class ModelInput:
    """An image input. ``batch``: the number of images the model insists on, None if any. ``others``: what else the
    model reads."""

    name: str
    channels: int
    height: int
    width: int
    layout: str  # "NCHW" or "NHWC"
    batch: int | None
    dtype: np.dtype
    others: tuple[OtherInput, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """The names of all inputs that are fed with images: each shows those that lie one further."""
        return (self.name, *(other.name for other in self.others if other.role == "image"))

    def shape(self, images: int) -> tuple[int, int, int, int]:
        """The shape of a batch of ``images`` in the model's layout."""
        if self.layout == "NHWC":
            return (images, self.height, self.width, self.channels)
        return (images, self.channels, self.height, self.width)

    def shapes(self, images: int) -> dict[str, tuple[int, ...]]:
        """The shapes of all inputs for a batch of ``images``, by name."""
        return {self.name: self.shape(images)} | {other.name: other.full_shape(images) for other in self.others}

    def feeds(self, batches: Sequence[np.ndarray], first: int = 0) -> list[dict[str, np.ndarray]]:
        """Batches of images, as the model wants them, with what all other inputs get beside them.

        first: the number of the first image, where arrays that the user has go on from earlier ones.
        """
        found: list[dict[str, np.ndarray]] = [{self.name: batch} for batch in batches]
        images = [image for batch in batches for image in batch] if self.others else []
        further = {name: steps for steps, name in enumerate(self.images)}
        start = 0
        for feeds, batch in zip(found, batches, strict=True):
            rows = range(start, start + len(batch))
            for other in self.others:
                shown = [images[(row + further.get(other.name, 0)) % len(images)] for row in rows]
                feeds[other.name] = other.values(range(first + rows.start, first + rows.stop), shown)
            start = rows.stop
        return found


def model_input(
    model: onnx.ModelProto,
    runs: Callable[[ModelInput], bool],
    shape: tuple[int, ...] | None = None,
    given: Mapping[str, np.ndarray] | None = None,
) -> ModelInput:
    """The image input of a model, and how others are fed.

    runs: whether the model runs with inputs so described; asked where H and W are free, or what an input is for.
    shape: what the user gave, [N, C, H, W] or [N, H, W, C] as the model has it. given: arrays that the user has for
    other inputs, by name.

    Raises OnnxdfqError where no input is an image, where an array does not fit, or where nothing that was tried runs.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in initializers]
    entry = _leading(inputs)
    kind = entry.type.tensor_type
    if not entry.type.HasField("tensor_type") or kind.elem_type not in IMAGES:
        raise OnnxdfqError(f"input {entry.name} is neither float32 nor uint8", "only images are supported")
    dims: list[int] = [size.dim_value if size.HasField("dim_value") else 0 for size in kind.shape.dim]
    if len(dims) != 4:
        raise OnnxdfqError(
            f"input {entry.name} has {len(dims)} axes, an image input has four", "only images are supported"
        )
    if shape is not None:
        if len(shape) != 4 or any(have not in (0, size) for have, size in zip(dims[1:], shape[1:], strict=True)):
            raise OnnxdfqError(f"--input-shape does not fit input {entry.name} {dims}", "write it as 1x3x224x224")
        dims = [dims[0], *shape[1:]]
    layout = _layout(dims)
    channels, height, width = (dims[3], dims[1], dims[2]) if layout == "NHWC" else (dims[1], dims[2], dims[3])
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    sizes = [(height, width)] if height and width else [(height or size, width or size) for size in SIZES]
    others = [other for other in inputs if other is not entry]
    for height, width in sizes:
        found = ModelInput(entry.name, channels or 3, height, width, layout, dims[0] or None, dtype)
        leading = Leading(dims_of(entry), found.shape(1)[1:], layout, dtype)
        ways = [ways_to_feed(other, leading, given or {}) for other in others]
        tried = [replace(found, others=chosen) for chosen in islice(product(*ways), MOST_WAYS)]
        for candidate in tried:
            if len(sizes) == len(tried) == 1 or runs(candidate):
                return candidate
    if others:
        names = ", ".join(other.name for other in others)
        raise OnnxdfqError(
            f"found nothing for the inputs beside {entry.name} ({names}) that the model runs with",
            "give an npz to --images that holds an array for each, or --input-shape",
        )
    raise OnnxdfqError(f"no size found that input {entry.name} {dims} runs with", "give one with --input-shape")


def _leading(inputs: Sequence[onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    """The image among the inputs of a model, the first of those in colour if there are several."""
    if len(inputs) == 1:
        return inputs[0]
    names = ", ".join(entry.name for entry in inputs) or "none"
    able: list[tuple[bool, int, int]] = []
    for place, entry in enumerate(inputs):
        dims = [size if isinstance(size, int) else 0 for size in dims_of(entry)]
        if entry.type.tensor_type.elem_type in IMAGES and len(dims) == 4:
            channels = dims[3] if _layout(dims) == "NHWC" else dims[1]
            if channels in LEADING:
                able.append((bool(MASK.search(entry.name.lower())), LEADING.index(channels), place))
    if not able:
        raise OnnxdfqError(
            f"the model has {len(inputs)} inputs ({names}), none of them an image",
            "only models of images are supported",
        )
    return inputs[min(able)[2]]


def _layout(dims: Sequence[int]) -> str:
    return "NHWC" if dims[3] in CHANNELS and dims[1] not in CHANNELS else "NCHW"
