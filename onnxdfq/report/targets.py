"""Targets as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from passes.targets import Kind, Target

SHOWN: tuple[Kind, ...] = ("weighted", "elementwise", "concat", "unary", "same-scale")


def show_targets(targets: Iterable[Target], console: Console) -> None:
    """What each target wants, in words."""
    for target in targets:
        console.print(Text.assemble((target.name, "bold"), f": {target.runtime}"))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row("  activations", _activations(target))
        table.add_row("  weights", _weights(target))
        table.add_row("  biases", _biases(target))
        if not target.weights_only:
            for kind in SHOWN:
                ops = [op for op, each in target.rules.items() if each == kind]
                if ops:
                    table.add_row(f"  {kind}", ", ".join(ops))
        table.add_row(
            "  opsets", f"{target.opsets[0]} to {target.opsets[1]}; the rest in {' or '.join(target.float_types)}"
        )
        if target.advice:
            table.add_row("  note", target.advice)
        console.print(table)


def _activations(target: Target) -> str:
    if target.weights_only:
        return "float"
    zero = "zero-point 0" if target.symmetric else "any zero-point"
    where = "wherever an operator below touches them" if target.everything else "where an integer kernel gains by it"
    types = target.activation + (f" or {target.activation.replace('8', '16')}" if 16 in target.activation_bits else "")
    return f"{types}, one scale, {zero}; {where}"


def _weights(target: Target) -> str:
    text = f"int8 of up to {target.weight_bits} bits, zero-point 0, one scale for each output channel"
    if target.per_tensor_weights:
        text += f" (one in all for {', '.join(sorted(target.per_tensor_weights))})"
    for bits, opset in sorted(target.packed_from):
        text += f"; up to {bits} bits packed, from opset {opset}"
    return text


def _biases(target: Target) -> str:
    written = ", ".join(sorted(target.int32_bias_written))
    return f"float, int32 for {written}" if written else "float"
