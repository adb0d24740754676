"""What a training needs to go on where it was killed.

    checkpoints = Checkpoints(folder, key_of(settings, model))
    state = checkpoints.load() or {"iteration": 0}
    checkpoints.save({"iteration": 100, "student": module.state_dict(), ...})

The file's name is a hash of all that the training hangs on: another one never picks it up.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

import onnxdfq
from onnxdfq.model_file import write_bytes


@dataclass(frozen=True)
class Checkpoints:
    """The newest state of one training, in ``folder``; None keeps nothing."""

    folder: Path | None
    key: str

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last, with tensors on the CPU; None if there is none that is whole."""
        if self.folder is None:
            return None
        try:
            state = torch.load(self._file(self.folder), map_location="cpu", weights_only=True)
        except Exception:  # missing, cut off, or no such file at all: each fails in a way of its own
            return None
        return state if isinstance(state, dict) else None

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state of tensors, numbers and text, in any nesting. The file appears whole or not at all. Raises
        OnnxdfqError where it can't be written."""
        if self.folder is None:
            return
        content = io.BytesIO()
        torch.save(dict(state), content)
        write_bytes(content.getvalue(), self._file(self.folder))

    def _file(self, folder: Path) -> Path:
        return folder / f"{self.key}.pt"


def key_of(settings: Mapping[str, Any], *models: onnx.ModelProto) -> str:
    """A name for the training of these models with these settings, by this version of the package. settings: what JSON
    can hold; anything else goes in as its text."""
    described = json.dumps({"version": onnxdfq.__version__, **settings}, sort_keys=True, default=str).encode()
    digest = hashlib.sha256(described)
    for model in models:
        digest.update(hashlib.sha256(model.SerializeToString(deterministic=True)).digest())
    return digest.hexdigest()[:24]
