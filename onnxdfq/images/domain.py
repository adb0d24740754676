"""Which numbers an image holds when it arrives at the model's input, and how to put pixels into that form.

x = (pixel - mean) / std          pixel in 0..255, per channel
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.model_input import ModelInput


@dataclass(frozen=True)
class InputDomain:
    """mean, std: per channel of the model's input, in pixels 0..255. order: of colours at the model's input. why: for
    the report, how this is known."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str  # "RGB" or "BGR"
    why: str

    @property
    def low(self) -> float:
        """The smallest number that an image can hold."""
        return min((0 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))

    @property
    def high(self) -> float:
        """The largest number that an image can hold."""
        return max((255 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))

    def to_model(self, pixels: np.ndarray, into: ModelInput) -> np.ndarray:
        """Pixels [N, C, H, W] 0..255, channels as the model orders them, as a batch for the model."""
        if into.dtype == np.uint8:
            values = np.rint(pixels).astype(np.uint8)
        else:
            mean, std = (
                np.resize(np.asarray(each, np.float32), into.channels).reshape(1, -1, 1, 1)
                for each in (self.mean, self.std)
            )
            values = (pixels.astype(np.float32) - mean) / std
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1) if into.layout == "NHWC" else values)

    def from_rgb(self, pixels: np.ndarray) -> np.ndarray:
        """RGB pixels [N, 3, H, W] with channels in the order of the model."""
        return pixels[:, ::-1] if self.order == "BGR" and pixels.shape[1] == 3 else pixels

    def describe(self) -> str:
        """One line: numbers and reason."""
        return f"{self.name}: values {self.low:.4g}..{self.high:.4g}, {self.order} ({self.why})"


# name -> (mean, std, order); means and deviations in pixels
PRESETS: dict[str, tuple[tuple[float, ...], tuple[float, ...], str]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB"),
    "pm1": ((127.5,), (127.5,), "RGB"),
    "unit": ((0.0,), (255.0,), "RGB"),
    "raw255": ((0.0,), (1.0,), "RGB"),
    "caffe": ((104.0, 117.0, 123.0), (1.0,), "BGR"),
}


def preset(name: str, channels: int, why: str) -> InputDomain:
    """A named domain for an input with ``channels`` channels. Raises OnnxdfqError for an unknown name."""
    if name not in PRESETS:
        raise OnnxdfqError(
            f"no input domain is called {name}", f"choose one of {', '.join(PRESETS)}, or give --mean and --std"
        )
    mean, std, order = PRESETS[name]
    return domain(name, mean, std, order, channels, why)


def given(mean: tuple[float, ...], std: tuple[float, ...], scale: float, order: str, channels: int) -> InputDomain:
    """The domain x = (pixel * scale - mean) / std, as training scripts write it."""
    if len(mean) not in (1, channels) or len(std) not in (1, channels):
        raise OnnxdfqError(f"--mean and --std need one value or {channels}", "separate them by commas")
    if not np.isfinite([*mean, *std, scale]).all() or scale <= 0 or min(std) <= 0:
        raise OnnxdfqError("--mean, --std and --scale must be numbers, the last two above zero")
    in_pixels = [tuple(value / scale for value in each) for each in (mean, std)]
    return domain("given", in_pixels[0], in_pixels[1], order, channels, "given by the user")


def domain(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], order: str, channels: int, why: str
) -> InputDomain:
    """One value per channel; where the counts differ (a grey image under a colour preset), their average for all."""

    def fit(values: tuple[float, ...]) -> tuple[float, ...]:
        return values if len(values) == channels else (float(np.mean(values)),) * channels

    return InputDomain(name, fit(mean), fit(std), order, why)
