"""A bundle on images from a folder or an npz."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

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

AT_ONCE = 256  # images that are numbers for the model at the same time
TAKEN = ("level", "file", "allow_pickle")  # names that the file has, or numpy's writer


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
    if device not in get_args(Device):
        raise OnnxdfqError(f"--device {device} is not known", f"choose from {', '.join(get_args(Device))}")
    if output is not None and bundle.resolve() in output.resolve().parents:
        raise OnnxdfqError(f"{output} lies within the bundle", "give another place with -o")
    session = DynamicSession(bundle, device)
    manifest = session.manifest
    taken = [name for name in manifest.outputs if name in TAKEN]
    if output is not None and taken:
        raise OnnxdfqError(f"an output of the model is called {taken[0]}, which no npz can hold", "leave -o out")
    into, domain = _described(manifest)
    pixels, labels = read_images(images, into)
    parts = [domain.from_rgb(pixels[k : k + AT_ONCE]) for k in range(0, len(pixels), AT_ONCE)]
    answered = _joined([session.run(domain.to_model(part, into)) for part in parts])
    if output is not None:
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, level=answered.levels, **answered.outputs)
        write_bytes(file.getvalue(), output)
    shares = tuple(float((answered.levels == number).mean()) for number in range(len(manifest.levels)))
    first = answered.outputs[manifest.outputs[0]]
    scores = first.reshape(len(first), -1)
    known = labels is not None and labels.ndim == 1 and labels.max() < scores.shape[1]
    accuracy = 100 * float((scores.argmax(1) == labels).mean()) if known else None
    names = tuple(level.name for level in manifest.levels)
    return Summary(len(pixels), session.provider, names, shares, _bitops(manifest, answered.levels), accuracy, answered)


def _joined(parts: Sequence[Answered]) -> Answered:
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs}
    return Answered(outputs, np.concatenate([part.levels for part in parts]))


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
