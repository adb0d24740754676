"""When to stop: the loss has been flat for a while."""

from __future__ import annotations

WINDOW = 10  # steps that are averaged, as each sees the images differently
PATIENCE = 3  # windows without gain
GAIN = 0.01  # that counts, as a share of the best


class Plateau:
    """Fed with the loss of every step, says when to stop."""

    def __init__(self) -> None:
        self._sum, self._steps = 0.0, 0
        self._best, self._idle = float("inf"), 0

    def flat(self, loss: float) -> bool:
        """Whether the last PATIENCE windows brought nothing. Deterministic: no clock enters."""
        self._sum += loss
        self._steps += 1
        if self._steps < WINDOW:
            return False
        mean, self._sum, self._steps = self._sum / WINDOW, 0.0, 0
        if mean < self._best * (1 - GAIN):
            self._best, self._idle = mean, 0
        else:
            self._idle += 1
        return self._idle >= PATIENCE
