"""What a user demands of a result before it may be used: ``--min-agreement`` and ``--max-drop``."""

from __future__ import annotations

from dataclasses import dataclass

from onnxdfq.errors import OnnxdfqError
from onnxdfq.report.report import Report, TargetReport


@dataclass(frozen=True)
class Gate:
    """agreement: percent of held-out images that have the class of the float model. drop: points of top-1 that may be
    lost on labelled images; without any, of agreement on held-out ones, which an accuracy hardly falls below."""

    agreement: float | None = None
    drop: float | None = None

    def __post_init__(self) -> None:
        if self.agreement is not None and not 0 < self.agreement <= 100:
            raise OnnxdfqError(f"--min-agreement {self.agreement:g} is no percentage", "give one such as 98")
        if self.drop is not None and not 0 <= self.drop < 100:
            raise OnnxdfqError(f"--max-drop {self.drop:g} is no number of points", "give one such as 1.5")

    def __bool__(self) -> bool:
        return self.agreement is not None or self.drop is not None

    @property
    def held_out(self) -> float:
        """The agreement on held-out images that both come to, where nothing is labelled."""
        return max(self.agreement or 0.0, 100.0 - self.drop if self.drop is not None else 0.0)

    def missed(self, report: Report) -> str:
        """What does not hold, in words; empty where all of it does."""
        return "; ".join(filter(None, (self._missed(name, each, report) for name, each in report.targets.items())))

    def _missed(self, name: str, target: TargetReport, report: Report) -> str:
        found = target.agreement.top1
        if found is None:
            return f"{name}: the model is no classifier, so that nothing can be demanded of its agreement"
        if self.agreement is not None and found < self.agreement:
            return f"{name}: {found:.1f} % of held-out images keep their class, {self.agreement:g} % are wanted"
        if self.drop is None:
            return ""
        if target.accuracy is not None and report.accuracy is not None:
            lost = report.accuracy - target.accuracy
            return f"{name}: {lost:.2f} points of top-1 lost, {self.drop:g} allowed" if lost > self.drop else ""
        if found < 100 - self.drop:
            return f"{name}: {100 - found:.1f} % of held-out images lose their class, {self.drop:g} % may"
        return ""
