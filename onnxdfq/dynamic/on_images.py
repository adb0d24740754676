"""A bundle on images from a folder or an npz."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxdfq.dynamic.bundle import Manifest
from onnxdfq.dynamic.cascade import Cascade
from onnxdfq.dynamic.session import Answered, DynamicSession
from onnxdfq.engine.ort import Device
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.domain import InputDomain
from onnxdfq.images.files import read_images
from onnxdfq.images.model_input import ModelInput
from onnxdfq.model_file import write_bytes


@dataclass(frozen=True)
class Summary:
    """names: of levels; shares: of images that each has answered. bitops: of a mean image. accuracy: percent, where
    the images have labels."""

    images: int
    provider: str
    names: tuple[str, ...]
    shares: tuple[float, ...]
    bitops: float
    accuracy: float | None
    answered: Answered

    def to_json(self) -> dict[str, Any]:
        """Everything but the answers."""
        levels = dict(zip(self.names, self.shares, strict=True))
        return {"images": self.images, "provider": self.provider, "levels": levels, "bitops": self.bitops,
                "accuracy": self.accuracy}  # fmt: skip


def run_on_images(bundle: Path, images: Path, output: Path | None, device: Device) -> Summary:
    """Answer all images; ``output`` receives an npz with the outputs by name and ``level`` [N].

    Raises OnnxdfqError for a bundle or images that can't be used.
    """
    session = DynamicSession(bundle, device)
    manifest = session.manifest
    into, domain = _described(manifest)
    pixels, labels = read_images(images, into)
    answered = session.run(domain.to_model(domain.from_rgb(pixels), into))
    if output is not None:
        if "level" in answered.outputs:
            raise OnnxdfqError("an output of the model is called level", "leave -o out")
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, level=answered.levels, **answered.outputs)
        write_bytes(file.getvalue(), output)
    shares = tuple(float((answered.levels == number).mean()) for number in range(len(manifest.levels)))
    first = answered.outputs[manifest.outputs[0]]
    known = labels is not None and labels.ndim == 1
    accuracy = 100 * float((first.reshape(len(first), -1).argmax(1) == labels).mean()) if known else None
    names = tuple(level.name for level in manifest.levels)
    return Summary(len(pixels), session.provider, names, shares, _bitops(manifest, answered.levels), accuracy, answered)


def _bitops(manifest: Manifest, levels: np.ndarray) -> float:
    costs = np.array([level.bitops for level in manifest.levels])
    if manifest.decision == "cascade":
        return float(Cascade(manifest.asked, manifest.thresholds).paid(costs.tolist(), levels).mean())
    return float(costs[levels].mean()) + manifest.router_bitops


def _described(manifest: Manifest) -> tuple[ModelInput, InputDomain]:
    given = manifest.input
    _, *axes = given.shape
    channels, height, width = (axes[2], axes[0], axes[1]) if given.layout == "NHWC" else axes
    into = ModelInput(given.name, channels, height, width, given.layout, given.batch, np.dtype(np.float32))
    return into, InputDomain("bundle", tuple(given.mean), tuple(given.std), given.order, "written in the bundle")
