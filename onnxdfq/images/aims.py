"""What inverted images are made to be, beside what the model knows of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from onnxdfq.errors import OnnxdfqError


@dataclass(frozen=True)
class Aims:
    """hard, boundary: shares of images that the model shall be less sure of, and that belong to two classes at once.
    difficult: share that belongs to classes that are alike, in all degrees of doubt, see images/difficulty.py; dot:
    alike as published there. cutoff: of a low-pass that images are seen through, in cycles per pixel, 0 for none.
    crops: parts of an image have to do, too. swing: strided convolutions move by chance, see images/swing.py.
    unlabelled: the first output holds no scores, though it looks as if it did (an embedding)."""

    hard: float = 0.0
    boundary: float = 0.0
    difficult: float = 0.0
    dot: bool = False
    cutoff: float = 0.0
    crops: bool = False
    swing: bool = False
    unlabelled: bool = False


def read_aims(words: Sequence[str]) -> Aims:
    """Aims from words such as "boundary=0.3" and "swing". Raises OnnxdfqError for others."""
    found: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        kind = next((field for field in fields(Aims) if field.name == name), None)
        if kind is None:
            known = ", ".join(field.name for field in fields(Aims))
            raise OnnxdfqError(f"--aim {name} is not known", f"choose from {known}")
        if isinstance(kind.default, bool):
            if value:
                raise OnnxdfqError(f"--aim {word}: {name} takes no number", f"give --aim {name}")
            found[name] = True
            continue
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            raise OnnxdfqError(f"--aim {word} needs a number from 0 to 1", f"give --aim {name}=0.3")
        found[name] = number
    if found.get("boundary") and found.get("difficult"):
        raise OnnxdfqError("--aim boundary and --aim difficult exclude each other", "give one of them")
    if found.get("dot") and not found.get("difficult"):
        raise OnnxdfqError("--aim dot says which classes are alike", "give --aim difficult=0.5 beside it")
    return Aims(**found)
