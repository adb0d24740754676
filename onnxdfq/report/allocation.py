"""Bits by layer: the pairs, what a budget came to, and how sensitive layers are; as data, in words, and as bars."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import log10
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxdfq.report.names import some
from passes.pairing import Pairing
from passes.stored_weights import Stored

ROWS_SHOWN = 12
BAR = 24  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉█"
SHOWN_AT = 4  # bits at which layers are compared
DECADES = 6  # that a full bar spans at most


# -- pairs


def pairing_data(pairing: Pairing) -> dict[str, Any]:
    """The pairs as {low, high, through}, and the layers in no pair with their reasons: plain lists and text."""
    return {
        "pairs": [
            {"low": pair.low, "high": list(pair.high), "through": list(pair.path.through)} for pair in pairing.pairs
        ],
        "skips": [{"node": skip.node, "reason": skip.reason} for skip in pairing.skips],
    }


def pairs_in_words(pairing: Mapping[str, Any], most: int | None = None) -> list[str]:
    """A line for each pair, then one for each reason why layers are in none; of both the first ``most``, or all."""
    reasons: dict[str, list[str]] = {}
    for skip in pairing["skips"]:
        reasons.setdefault(skip["reason"], []).append(skip["node"])
    pairs = [_pair(pair) for pair in pairing["pairs"]] or ["no layer can be paired with one after it"]
    alone = [f"{some(nodes)} in no pair: {reason}" for reason, nodes in reasons.items()]
    return _first(pairs, most) + _first(alone, most)


def _first(lines: list[str], most: int | None) -> list[str]:
    rest = len(lines) - len(lines[:most])
    return lines[:most] + ([f"and {rest} more"] if rest else [])


def _pair(pair: Mapping[str, Any]) -> str:
    through = f" through {', '.join(pair['through'])}" if pair["through"] else ""
    return f"{pair['low']} -> {', '.join(pair['high'])}{through}"


# -- bits


def bits_in_words(bits: Mapping[str, int]) -> list[str]:
    """One line for each width: how many layers have it, and which."""
    widths = sorted(set(bits.values()))
    named = {width: [layer for layer, each in bits.items() if each == width] for width in widths}
    return [f"{width} bits: {some(layers)}" for width, layers in named.items()]


def size_in_words(share: float, stored: Sequence[Stored]) -> str:
    """What a budget of bytes came to. stored: the integer weights of the finished model."""
    size, whole = sum(each.size for each in stored), 4 * sum(each.elements for each in stored)
    return (
        f"{share:g} of the float32 bytes asked for; the integers of all {len(stored)} layers take {size:,} of "
        f"{whole:,}, which is {size / max(whole, 1):.4f} (scales and biases are not counted)"
    )


def average_in_words(
    average: float, elements: Mapping[str, int], bits: Mapping[str, int], free: Collection[str]
) -> str:
    """What a budget of bits came to. elements, bits: by layer; free: the layers that it was spent on."""
    count = sum(elements[layer] for layer in free)
    spent = sum(elements[layer] * bits[layer] for layer in free) / max(count, 1)
    settled = len(bits) - len(free)
    return (
        f"{average:g} bits on average asked for; the {count:,} weights of {len(free)} layers have {spent:.3f}, in "
        "whatever a file holds them"
        + (f" (not counted: {settled} layers whose bits were settled before)" if settled else "")
    )


# -- sensitivity


def show_sensitivity(sensitivity: Mapping[str, Mapping[int, float]], bits: Mapping[str, int], console: Console) -> None:
    """The most sensitive layers first: the bits that each got, what 4 bits would do to the answers, and a bar of it.

    sensitivity: damage by layer and bits; bits: by layer. Bars are logarithmic and end where the damage is largest.
    """
    if not sensitivity:
        return
    damages = {layer: each[SHOWN_AT] for layer, each in sensitivity.items()}
    order = sorted(damages, key=lambda layer: -damages[layer])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sensitivity of", overflow="fold")
    table.add_column("bits", justify="right")
    table.add_column(f"damage of {SHOWN_AT} bits", justify="right", no_wrap=True)
    table.add_column("logarithmic", no_wrap=True)
    lengths = bar_lengths([damages[layer] for layer in order])
    for layer, length in list(zip(order, lengths, strict=True))[:ROWS_SHOWN]:
        drawn = "#" * round(length) if console.options.ascii_only else bar(length)
        table.add_row(Text(layer), str(bits[layer]), f"{damages[layer]:.2g}", drawn)
    console.print(table)
    if len(order) > ROWS_SHOWN:
        least = damages[order[-1]]
        console.print(f"and {len(order) - ROWS_SHOWN} more, down to {least:.2g}", style="dim", highlight=False)


def bar_lengths(damages: Sequence[float]) -> list[float]:
    """Characters of each bar, at most BAR: the logarithm of the damage, from the smallest to the largest."""
    above = [damage for damage in damages if damage > 0]
    if not above:
        return [0.0] * len(damages)
    high = log10(max(above))
    low = max(log10(min(above)), high - DECADES)
    step = (BAR - 1) / (high - low) if high > low else 0.0
    return [1 + (max(log10(damage), low) - low) * step if damage > 0 else 0.0 for damage in damages]


def bar(length: float) -> str:
    """A bar of so many characters, to the eighth of one."""
    whole, part = divmod(round(8 * length), 8)
    return EIGHTHS[8] * whole + (EIGHTHS[part] if part else "")
