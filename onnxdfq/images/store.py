"""Images kept on disk, shard by shard, so that a killed run goes on and a second one finds them.

    CACHE/5f0c.../about.json                    what the images hang on
                  schedule-60s-512-1.json       what was decided by the clock
                  100-steps/00000.npz           a shard

The folder's name is a hash of all that the images hang on besides the steps: the model's bytes, the source, the input's
form and domain, the seed and the version of this package.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.source import Batch, Source
from onnxdfq.model_file import write_bytes


@dataclass(frozen=True)
class Store:
    """Shards in ``folder``, one npz each. image: shape [C, H, W] of each of theirs."""

    folder: Path
    image: tuple[int, int, int]

    def load(self, source: Source, shard: int) -> Batch | None:
        """A shard that ``source`` made before; None if there is none that is whole."""
        try:
            with np.load(self._file(source, shard), allow_pickle=False) as data:
                pixels, labels = data["pixels"], data.get("labels")
        except Exception:  # zip, deflate and numpy headers each fail in ways of their own
            return None
        if pixels.shape != (source.size, *self.image) or pixels.dtype != np.uint8:
            return None
        return None if labels is not None and len(labels) != source.size else Batch(pixels.astype(np.float32), labels)

    def save(self, source: Source, shard: int, batch: Batch) -> None:
        """Keep a shard that ``source`` made; it appears whole or not at all."""
        arrays = {"pixels": batch.pixels.astype(np.uint8)}
        if batch.labels is not None:
            arrays["labels"] = batch.labels
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        write_bytes(content.getvalue(), self._file(source, shard))

    def remember(self, name: str, value: Any) -> None:
        """Keep something that was decided, as JSON."""
        write_bytes(json.dumps(value).encode(), self.folder / f"{name}.json")

    def remembered(self, name: str) -> Any:
        """What was decided before; None if nothing was."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None

    def _file(self, source: Source, shard: int) -> Path:
        return self.folder / f"{source.steps}-steps" / f"{shard:05}.npz"


def open_store(cache: Path, model: bytes, settings: Mapping[str, Any], image: tuple[int, int, int]) -> Store:
    """The folder in ``cache`` for images [C, H, W] of this model made in this way. Raises OnnxdfqError if it can't be
    written."""
    described = json.dumps(settings, indent=1, sort_keys=True, default=str).encode()
    folder = cache / hashlib.sha256(hashlib.sha256(model).digest() + described).hexdigest()[:24]
    try:
        write_bytes(described, folder / "about.json")
    except OnnxdfqError as error:
        raise OnnxdfqError(error.message, "give another --cache") from error
    return Store(folder, image)
