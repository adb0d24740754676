"""What choosing bits for each image came to, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxdfq.dynamic.decide import Outcome
from onnxdfq.report.report import Report, versions

SAME_TIME = 0.95  # of the last level's time: above it a cheaper level saves none


@dataclass(frozen=True)
class LevelReport:
    """costs of one image: bitops; milliseconds measured on this machine, alone. agreement: percent of held-out images
    with the class of the float model, kl: to it in nats. accuracy: percent of labelled images, where there are any.
    quantized: what the run that made the level says; None for a float level."""

    name: str
    bitops: float
    milliseconds: float
    agreement: float
    kl: float
    accuracy: float | None = None
    quantized: dict[str, Any] | None = None


@dataclass(frozen=True)
class Point:
    """One way to trade cost for right answers, fitted on synthetic images: outcome on held-out ones, and on labelled
    ones where there are any. asked, thresholds: of a cascade, see Cascade; leaning: of a router."""

    synthetic: Outcome
    labelled: Outcome | None
    asked: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    leaning: tuple[float, ...] = ()


@dataclass
class DynamicReport:
    """prepared: the report of what all levels share, images and input. unit: of costs that were traded, "BitOPs" or
    "ms". decision: "cascade" or "router", and why. asked, thresholds: of the cascade, see Cascade. synthetic: outcome
    on held-out images; labelled: on images with labels, for which nothing was fitted. other: outcome of the way that
    was not chosen, on held-out images. points: other trades that the same levels offer."""

    prepared: Report
    target: str
    unit: str
    levels: list[LevelReport]
    decision: str
    why: str
    asked: tuple[int, ...]
    thresholds: tuple[float, ...]
    synthetic: Outcome
    other: Outcome | None
    points: list[Point]
    labelled: Outcome | None = None
    accuracy: float | None = None
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain lists, numbers and text."""
        fields = {name: value for name, value in self.__dict__.items() if name != "prepared"}
        plain = {name: _plain(value) for name, value in fields.items()}
        return {**self.prepared.to_json(), **plain, "versions": versions()}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def about_speed(levels: Sequence[LevelReport]) -> str:
    """Whether cheap levels are faster on this machine, in words."""
    last = levels[-1]
    fastest = min(levels[:-1], key=lambda level: level.milliseconds)
    if fastest.milliseconds <= SAME_TIME * last.milliseconds:
        return ""
    times = ", ".join(f"level {level.name} takes {level.milliseconds:.3g} ms" for level in levels)
    return (
        f"{times} on this machine's kernels: dynamic bits buy no time here, only bit operations on hardware that "
        "counts them"
    )
