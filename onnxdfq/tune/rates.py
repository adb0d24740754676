"""What of a quantized graph learns, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxdfq.tune.student import Student


@dataclass(frozen=True)
class Rates:
    """Steps of Adam at the beginning. weights: as shares of what codes reach over, for with fewer bits each code that
    changes is a larger change. scales: in logarithms. biases: in root mean squares of each bias. So they mean the same
    in all layers of all models."""

    weights: float
    scales: float
    biases: float


def parameters_of(student: Student, rates: Rates) -> list[dict[str, Any]]:
    """Groups for an optimizer: all that learns."""
    weights, ranges = student.weights.values(), student.ranges.values()
    growths = {id(each.growth): each.growth for each in [*weights, *ranges]}  # some share theirs
    groups: list[dict[str, Any]] = [{"params": list(growths.values()), "lr": rates.scales}]
    groups += [{"params": [each.steps], "lr": rates.weights * (each.high - each.low)} for each in weights]
    for bias in student.biases.values():
        size = float(bias.detach().square().mean().sqrt()) + 1e-6
        groups.append({"params": [bias], "lr": rates.biases * size})
    return groups
