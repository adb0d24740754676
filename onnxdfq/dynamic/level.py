"""The levels of a dynamic model: one network at several prices, the cheapest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from onnxdfq.config import BITS, Options
from onnxdfq.errors import OnnxdfqError

FLOATS = {"fp16": ("float16", 16), "fp32": ("float32", 32)}
MOST_LEVELS = 4


@dataclass(frozen=True)
class Level:
    """bits: of weights and activations, None where weights have ``average`` bits, chosen for each layer by what it does
    to the answers, and activations as many, rounded up. float_type: of a level that is not quantized, else empty."""

    name: str
    bits: int | None = None
    average: float | None = None
    float_type: str = ""

    def options(self, base: Options) -> Options:
        """Those of the run that makes this level, a quantized one. It learns where ``base`` says for how long."""
        learns = base.iterations is not None
        own = replace(base, recipe="accurate" if learns else "balanced", time_budget=None)
        if self.average is not None:
            return replace(own, bits=8, avg_bits=self.average, act_bits=ceil(self.average))
        assert self.bits is not None
        return replace(own, bits=self.bits, act_bits=self.bits)

    @property
    def price(self) -> float:
        """Bits, to sort levels by."""
        return FLOATS[self.name][1] if self.float_type else float(self.bits or self.average or 0)


def read_levels(parts: Sequence[int | float | str], *, averages: bool = False) -> tuple[Level, ...]:
    """Levels from 4, 8 and "fp32", cheapest first. averages: numbers are bits on average.

    Raises OnnxdfqError where there are fewer than two, more than MOST_LEVELS, or unknown or equal ones.
    """
    found = []
    for part in parts:
        if part in FLOATS:
            found.append(Level(str(part), float_type=FLOATS[str(part)][0]))
        elif isinstance(part, str):
            raise OnnxdfqError(f"{part} is no level", "levels are numbers of bits, fp16 and fp32: --bits 4/8/fp32")
        elif not BITS[0] <= part <= BITS[-1] or not (averages or part == int(part)):
            raise OnnxdfqError(f"a level of {part:g} bits", f"choose {BITS[0]} to {BITS[-1]}, or fp16 or fp32")
        else:
            found.append(Level(f"{part:g}", average=part) if averages else Level(f"{part:g}", bits=int(part)))
    if not 2 <= len({level.name for level in found}) == len(found) <= MOST_LEVELS:
        raise OnnxdfqError(
            "--recipe dynadfq chooses between levels: two to four that differ", "give --bits 4/6/8, or 8/fp32"
        )
    return tuple(sorted(found, key=lambda level: level.price))
