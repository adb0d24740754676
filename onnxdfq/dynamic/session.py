"""Run a bundle: a batch is sorted by level, and each level runs once.

session = onnxdfq.DynamicSession("resnet20.dynamic")
answers = session.run(images)          images: [N, C, H, W] float32, as the model reads them
answers.outputs["logits"], answers.levels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnxdfq.dynamic.bundle import ROUTER, read_manifest
from onnxdfq.dynamic.cascade import Cascade
from onnxdfq.dynamic.confidence import margins
from onnxdfq.engine.ort import Device, Session
from onnxdfq.errors import OnnxdfqError

AT_ONCE = 64  # images


@dataclass(frozen=True)
class Answered:
    """outputs: by name, rows in the order of the images. levels: [N] which level has answered each image."""

    outputs: dict[str, np.ndarray]
    levels: np.ndarray


class DynamicSession:
    """A bundle loaded into ONNX Runtime. provider: what really runs it. manifest: what the bundle says of itself.

    Raises OnnxdfqError for a folder that is no bundle, lacks a part or holds one that was altered.
    """

    def __init__(self, bundle: str | Path, device: Device = "auto") -> None:
        folder = Path(bundle)
        self.manifest = read_manifest(folder)
        self._levels = [Session(onnx.load(folder / level.file), device) for level in self.manifest.levels]
        routed = self.manifest.decision == "router"
        self._cascade = Cascade(self.manifest.asked, self.manifest.thresholds)
        self._router = Session(onnx.load(folder / ROUTER), device) if routed else None
        self.provider = self._levels[0].provider

    def run(self, images: np.ndarray) -> Answered:
        """Answers for a batch [N, ...] in the type, layout and numbers that the model reads; N is one or more.

        Raises OnnxdfqError for another shape or type, or no images.
        """
        self._check(images)
        level = np.full(len(images), -1)
        outputs: dict[str, np.ndarray] = {}

        def keep(number: int, rows: np.ndarray, found: dict[str, np.ndarray]) -> None:
            level[rows] = number
            for name, values in found.items():
                into = outputs.setdefault(name, np.empty((len(images), *values.shape[1:]), values.dtype))
                into[rows] = values

        if self._router is not None:
            chosen = self._routed(images)
            for number in np.unique(chosen):
                rows = np.flatnonzero(chosen == number)
                keep(number, rows, self._in_batches(self._levels[number], images[rows]))
        else:
            left = np.arange(len(images))
            for number, threshold in zip(self._cascade.levels, (*self._cascade.thresholds, 0.0), strict=True):
                found = self._in_batches(self._levels[number], images[left])
                scores = found[self.manifest.outputs[0]]
                kept = margins(scores, probabilities=self.manifest.probabilities) >= np.float32(threshold)
                if number == self._cascade.levels[-1]:
                    kept[:] = True  # whatever its margin, were it no number
                keep(number, left[kept], {name: values[kept] for name, values in found.items()})
                left = left[~kept]
                if not len(left):
                    break
        return Answered({name: outputs[name] for name in self.manifest.outputs}, level)

    def _check(self, images: np.ndarray) -> None:
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            kind = getattr(images, "dtype", type(images).__name__)
            raise OnnxdfqError(f"images are {kind}", "give a numpy array of float32, as the model reads it")
        expected = self.manifest.input.shape[1:]
        if images.ndim != 4 or images.shape[1:] != expected:
            words = "x".join(map(str, ("N", *expected)))
            raise OnnxdfqError(f"images have shape {list(images.shape)}", f"the model reads {words}")
        if not len(images):
            raise OnnxdfqError("the batch is empty", "give one image or more")

    def _routed(self, images: np.ndarray) -> np.ndarray:
        assert self._router is not None
        numbers = next(iter(self._in_batches(self._router, images).values()))
        level: np.ndarray = (numbers + np.asarray(self.manifest.leaning, np.float32)).argmax(1)
        return level

    def _in_batches(self, session: Session, images: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs for all images; the last batch of a model that insists on a number is filled up."""
        size = self.manifest.input.batch or AT_ONCE
        found: list[dict[str, np.ndarray]] = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            lacking = size - len(part) if self.manifest.input.batch else 0
            fed = np.concatenate([part, np.repeat(part[-1:], lacking, 0)]) if lacking else part
            outputs = session.run({self.manifest.input.name: fed})
            found.append({name: values[: len(part)] for name, values in outputs.items()})
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}
