"""What choosing bits for each image came to, for a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from onnxdfq.dynamic.decide import Outcome
from onnxdfq.dynamic.on_images import Summary
from onnxdfq.dynamic.report import DynamicReport
from onnxdfq.report.tables import add_judgement, facts_table


def show_dynamic(report: DynamicReport, folder: Path, console: Console) -> None:
    """What `onnxdfq quantize --recipe dynadfq` prints."""
    shared = report.prepared
    facts = facts_table()
    facts.add_row("model", shared.model)
    facts.add_row("input", shared.input)
    facts.add_row("assumed input", shared.domain)
    facts.add_row("images", shared.images)
    add_judgement(facts, shared)
    for notice in report.notices:
        facts.add_row("notice", notice)
    facts.add_row("decision", report.why)
    if report.decision == "cascade":
        steps = [report.levels[number].name for number in report.asked]
        sure = [
            f"{name} if its margin is {least:.4f} or more"
            for name, least in zip(steps[:-1], report.thresholds, strict=True)
        ]
        facts.add_row("levels asked", ", ".join([*sure, f"{'else ' if sure else ''}{steps[-1]}"]))
    facts.add_row("time", f"{sum(shared.stages.values()):.1f} s, peak memory {shared.peak_mb:.0f} MB")
    facts.add_row("written to", str(folder))
    console.print(facts)
    table = Table(box=None, pad_edge=False, header_style="bold")
    labelled = report.labelled is not None
    for heading in ("level", "BitOPs", "ms", "agreement", "KL", *(["top-1"] if labelled else [])):
        table.add_column(heading, justify="left" if heading == "level" else "right")
    for level in report.levels:
        row = [
            level.name,
            f"{level.bitops:.3g}",
            f"{level.milliseconds:.3g}",
            f"{level.agreement:.1f} %",
            f"{level.kl:.4f}",
        ]
        table.add_row(*row, *([f"{level.accuracy:.2f}"] if level.accuracy is not None else []))
    console.print(table)
    console.print(_trades(report))
    _show("held-out synthetic images", "at the model's class", report.synthetic, report, console)
    if report.labelled is not None:
        _show("labelled images", f"right (float model {report.accuracy:.2f} %)", report.labelled, report, console)


def _trades(report: DynamicReport) -> Table:
    """What the same levels offer for other costs, and how far thresholds fitted on synthetic images carry."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    labelled = report.labelled is not None
    headings = [f"{report.unit}, synthetic", "agreement", "by lot"]
    headings += [f"{report.unit}, labelled", "top-1", "by lot"] if labelled else []
    table.add_column("decided by")
    for heading in headings:
        table.add_column(heading, justify="right")
    for point in report.points:
        names = [report.levels[number].name for number in point.asked]
        who = f"cascade {' > '.join(names)}" if point.asked else "router"
        outcomes = [point.synthetic, *([point.labelled] if point.labelled else [])]
        shown = [(f"{each.cost:.3g}", f"{each.right:.2f}", f"{each.by_lot:.2f}") for each in outcomes]
        table.add_row(who, *(cell for row in shown for cell in row))
    return table


def show_answers(done: Summary, console: Console) -> None:
    """What `onnxdfq run` prints."""
    facts = facts_table()
    facts.add_row("images", f"{done.images}, on {done.provider}")
    shares = [f"{name} {share:.1%}" for name, share in zip(done.names, done.shares, strict=True)]
    facts.add_row("levels", ", ".join(shares))
    facts.add_row("mean image", f"{done.bitops:.3g} BitOPs")
    if done.accuracy is not None:
        facts.add_row("top-1", f"{done.accuracy:.2f} %")
    console.print(facts)


def _show(what: str, right: str, outcome: Outcome, report: DynamicReport, console: Console) -> None:
    shares = ", ".join(f"{level.name} {share:.0%}" for level, share in zip(report.levels, outcome.shares, strict=True))
    console.print(
        f"{outcome.images} {what}: {outcome.right:.2f} % {right}; by lot for the same cost {outcome.by_lot:.2f} %; "
        f"{outcome.bitops:.3g} BitOPs and {outcome.milliseconds:.3g} ms for a mean image; levels {shares}"
    )
