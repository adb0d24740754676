"""What was decided about the bits of the weights of a model."""

from __future__ import annotations

from dataclasses import dataclass

from passes.pairing import Pairing


@dataclass(frozen=True)
class Bits:
    """by_weights: bits by the name of the weights. pairing: where layers were paired. damages: by layer and bits, and
    free: the layers that a budget was spent on, where there was one."""

    by_weights: dict[str, int]
    pairing: Pairing | None = None
    damages: dict[str, dict[int, float]] | None = None
    free: tuple[str, ...] = ()
