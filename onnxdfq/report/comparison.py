"""Two models side by side, for a terminal and as a page."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxdfq.compare import Comparison
from onnxdfq.report.html import bars, document, facts, paragraph, section, table
from onnxdfq.report.tables import facts_table

WORST = 5


def show_comparison(found: Comparison, console: Console) -> None:
    """What `onnxdfq compare` prints."""
    shown = facts_table()
    shown.add_row("images", found.images)
    shown.add_row("assumed input", found.domain)
    for notice in found.notices:
        shown.add_row("notice", notice)
    shown.add_row("agreement", found.agreement.in_words())
    for name, value in found.agreement.sqnr.items():
        shown.add_row("SQNR", Text(f"{name} {value:.1f} dB"))
    if found.parted:
        each = found.parted
        shown.add_row("they part at", Text(f"{each.tensor} ({each.op} {each.node}): {each.sqnr:.1f} dB"))
    elif found.tensors:
        shown.add_row("they part", "nowhere below 20 dB")
    else:
        shown.add_row("tensors", "none has the same name in both")
    console.print(shown)
    sides = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["model", "size", "ms", "runs on", *(["top-1"] if found.accuracies else [])]
    for heading in columns:
        sides.add_column(heading, justify="left" if heading in ("model", "runs on") else "right")
    for number, file in enumerate((found.first, found.second)):
        cells = [file, f"{found.sizes[number] / 1e6:.2f} MB", f"{found.milliseconds[number]:.3g}"]
        cells += [found.providers[number]] + ([f"{found.accuracies[number]:.2f}"] if found.accuracies else [])
        sides.add_row(*map(Text, cells))
    console.print(sides)
    if found.tensors:
        console.print(_worst(found))


def comparison_page(found: Comparison) -> str:
    """The same as one HTML page, with the noise of every tensor that both have."""
    rows: list[list[str | float | None]] = [
        ["size, MB", *(round(size / 1e6, 3) for size in found.sizes)],
        ["ms for one call", *found.milliseconds],
        ["runs on", *found.providers],
    ]
    rows += [["top-1 on labelled images, %", *found.accuracies]] if found.accuracies else []
    parted = f"They part at {found.parted.tensor} ({found.parted.sqnr:.1f} dB). " if found.parted else ""
    sqnr = ", ".join(f"{name} {value:.1f} dB" for name, value in found.agreement.sqnr.items())
    verdict = paragraph(f"{found.agreement.in_words()}. {parted}")
    body = [
        f'<h1>Two models compared</h1><div class="verdict">{verdict}</div>',
        section("Side by side", table(("", found.first, found.second), rows, figures=True)),
        section("On what", facts({"images": found.images, "input domain": found.domain, "SQNR of outputs": sqnr,
                                  "notices": "; ".join(found.notices)})),
        section("Signal to noise of tensors with the same name",
                bars((each.tensor, each.sqnr, f"{each.sqnr:.1f} dB") for each in found.tensors)),
    ]  # fmt: skip
    return document(f"{found.first} and {found.second}", body)


def _worst(found: Comparison) -> Table:
    worst = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("noisiest tensors", "written by", "SQNR, dB"):
        worst.add_column(heading, justify="right" if "SQNR" in heading else "left", overflow="fold")
    for each in sorted(found.tensors, key=lambda each: each.sqnr)[:WORST]:
        worst.add_row(Text(each.tensor), Text(f"{each.op} {each.node}"), f"{each.sqnr:.1f}")
    return worst
