"""Images kept on disk, shard by shard, so that a killed run goes on and a second one finds them.

The folder's name is a hash of all that the images hang on: the model's bytes, the source and its options, the input's
form and domain, the seed and the version of this package.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxdfq.images.source import Batch
from onnxdfq.model_file import write_bytes


@dataclass(frozen=True)
class Store:
    """Shards in ``folder``, one npz each."""

    folder: Path

    def load(self, shard: int) -> Batch | None:
        """A shard made before; None if there is none that is whole."""
        try:
            with np.load(self._file(shard), allow_pickle=False) as data:
                return Batch(data["pixels"].astype(np.float32), data.get("labels"))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def save(self, shard: int, batch: Batch) -> None:
        """Keep a shard; it appears whole or not at all."""
        arrays = {"pixels": batch.pixels.astype(np.uint8)}
        if batch.labels is not None:
            arrays["labels"] = batch.labels
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        write_bytes(content.getvalue(), self._file(shard))

    def remember(self, name: str, value: Any) -> None:
        """Keep something that was decided, as JSON."""
        write_bytes(json.dumps(value).encode(), self.folder / f"{name}.json")

    def remembered(self, name: str) -> Any:
        """What was decided before; None if nothing was."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:05}.npz"


def open_store(cache: Path, model: bytes, settings: Mapping[str, Any]) -> Store:
    """The folder in ``cache`` for images of this model made in this way. Raises OnnxdfqError if it can't be written."""
    described = json.dumps(settings, indent=1, sort_keys=True, default=str).encode()
    folder = cache / hashlib.sha256(hashlib.sha256(model).digest() + described).hexdigest()[:24]
    write_bytes(described, folder / "about.json")
    return Store(folder)
