"""What the model's input looks like: name, size, layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxdfq.errors import OnnxdfqError

SIZES = (224, 32, 256, 320, 128, 64, 299, 512, 640, 96, 28)  # tried in this order where H and W are free


@dataclass(frozen=True)
class ModelInput:
    """An image input. ``batch``: the number of images the model insists on, None if any."""

    name: str
    channels: int
    height: int
    width: int
    layout: str  # "NCHW" or "NHWC"
    batch: int | None
    dtype: np.dtype

    def shape(self, images: int) -> tuple[int, int, int, int]:
        """The shape of a batch of ``images`` in the model's layout."""
        if self.layout == "NHWC":
            return (images, self.height, self.width, self.channels)
        return (images, self.channels, self.height, self.width)


def model_input(
    model: onnx.ModelProto, runs: Callable[[ModelInput], bool], shape: tuple[int, ...] | None = None
) -> ModelInput:
    """The image input of a model.

    runs: whether the model runs with an input so described; asked where H and W are free. shape: what the user gave,
    [N, C, H, W] or [N, H, W, C] as the model has it.

    Raises OnnxdfqError for several inputs, an input that is no image, or no size that the model runs with.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in initializers]
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs) or "none"
        raise OnnxdfqError(
            f"the model has {len(inputs)} inputs ({names})", "only models with one image input are supported"
        )
    entry = inputs[0]
    kind = entry.type.tensor_type
    if not entry.type.HasField("tensor_type") or kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8):
        raise OnnxdfqError(f"input {entry.name} is neither float32 nor uint8", "only images are supported")
    dims: list[int] = [size.dim_value if size.HasField("dim_value") else 0 for size in kind.shape.dim]
    if len(dims) != 4:
        raise OnnxdfqError(
            f"input {entry.name} has {len(dims)} axes, an image input has four", "only images are supported"
        )
    if shape is not None:
        if len(shape) != 4 or any(have not in (0, given) for have, given in zip(dims[1:], shape[1:], strict=True)):
            raise OnnxdfqError(f"--input-shape does not fit input {entry.name} {dims}", "write it as 1x3x224x224")
        dims = [dims[0], *shape[1:]]
    layout = "NHWC" if dims[3] in (1, 3, 4) and dims[1] not in (1, 3, 4) else "NCHW"
    channels, height, width = (dims[3], dims[1], dims[2]) if layout == "NHWC" else (dims[1], dims[2], dims[3])
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    sizes = [(height, width)] if height and width else [(height or size, width or size) for size in SIZES]
    for size in sizes:
        found = ModelInput(entry.name, channels or 3, *size, layout, dims[0] or None, dtype)
        if len(sizes) == 1 or runs(found):
            return found
    raise OnnxdfqError(f"no size found that input {entry.name} {dims} runs with", "give one with --input-shape")
