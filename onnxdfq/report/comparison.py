"""Two models side by side, for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxdfq.compare import Comparison
from onnxdfq.report.tables import facts_table

WORST = 5


def show_comparison(found: Comparison, console: Console) -> None:
    """What `onnxdfq compare` prints."""
    facts = facts_table()
    facts.add_row("images", found.images)
    facts.add_row("assumed input", found.domain)
    for notice in found.notices:
        facts.add_row("notice", notice)
    facts.add_row("agreement", found.agreement.in_words())
    for name, value in found.agreement.sqnr.items():
        facts.add_row("SQNR", Text(f"{name} {value:.1f} dB"))
    if found.parted:
        each = found.parted
        facts.add_row("they part at", Text(f"{each.tensor} ({each.op} {each.node}): {each.sqnr:.1f} dB"))
    elif found.tensors:
        facts.add_row("they part", "nowhere below 20 dB")
    else:
        facts.add_row("tensors", "none has the same name in both")
    console.print(facts)
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["model", "size", "ms", "runs on", *(["top-1"] if found.accuracies else [])]
    for heading in columns:
        table.add_column(heading, justify="left" if heading in ("model", "runs on") else "right")
    for number, file in enumerate((found.first, found.second)):
        cells = [file, f"{found.sizes[number] / 1e6:.2f} MB", f"{found.milliseconds[number]:.3g}"]
        cells += [found.providers[number]] + ([f"{found.accuracies[number]:.2f}"] if found.accuracies else [])
        table.add_row(*map(Text, cells))
    console.print(table)
    if found.tensors:
        console.print(_worst(found))


def _worst(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("noisiest tensors", "written by", "SQNR, dB"):
        table.add_column(heading, justify="right" if "SQNR" in heading else "left", overflow="fold")
    for each in sorted(found.tensors, key=lambda each: each.sqnr)[:WORST]:
        table.add_row(Text(each.tensor), Text(f"{each.op} {each.node}"), f"{each.sqnr:.1f}")
    return table
