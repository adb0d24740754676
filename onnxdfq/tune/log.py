"""What a training did, line by line in a file as it happens, and as a picture at the end.

    {"settings": {"method": "qimera", ...}}
    {"iteration": 100, "seconds": 41.2, "loss": 2.31, "top1": 88.1, "kl": 0.31}

A run that goes on where it was killed writes on behind what is there; the picture shows what was written last for each
iteration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxdfq.errors import OnnxdfqError
from onnxdfq.model_file import write_bytes
from onnxdfq.report.curves import curves

AGREEMENT = ("top1", "kl")  # drawn in panels of their own; all other numbers share one
NOT_DRAWN = ("iteration", "seconds", "rate")


class Log:
    """JSON lines appended to ``path``, each at once in the file; None writes nothing. Raises OnnxdfqError where the
    file can't be written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def begin(self, **settings: Any) -> None:
        """The line at the head of a run. settings: what JSON can hold, or its text."""
        self._append({"settings": settings})

    def write(self, **numbers: float) -> None:
        """One line; by ``iteration`` the picture knows where to draw it. What is no number becomes null."""
        self._append({name: value if abs(value) < float("inf") else None for name, value in numbers.items()})

    def plot(self) -> None:
        """Draw all lines into a PNG file of the same name."""
        if self._path is not None:
            write_bytes(curves(self._curves(), self._path.stem), self._path.with_suffix(".png"))

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, default=str) + "\n")
        except OSError as error:
            raise OnnxdfqError(f"{self._path} can't be written: {error.strerror}", "give another --log") from error

    def _curves(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """Points of each number by panel. A line that was cut off when its run was killed is left out."""
        points: dict[str, dict[float, float]] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path and self._path.exists() else ():
            try:
                numbers = json.loads(line)
            except ValueError:
                continue
            if "settings" in numbers:
                points = points if numbers["settings"].get("resumed") else {}
            for name in numbers.keys() - {*NOT_DRAWN, "settings"}:
                if isinstance(numbers[name], int | float) and "iteration" in numbers:
                    points.setdefault(name, {})[numbers["iteration"]] = numbers[name]
        panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for name in sorted(points):
            panels.setdefault(name if name in AGREEMENT else "losses", {})[name] = sorted(points[name].items())
        return panels
