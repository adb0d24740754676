"""Findings of the linter as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxdfq.report.names import some
from passes.lint import SEVERITIES, Finding
from passes.targets import Target

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def show_findings(path: Path, target: Target, findings: Sequence[Finding], console: Console) -> None:
    """What `onnxdfq check` prints: one entry for each rule and each way to mend it, with the nodes it is about."""
    facts = _grid()
    facts.add_row("model", Text(str(path)))
    facts.add_row("target", f"{target.name}: {target.runtime}")
    facts.add_row("found", _counted(findings))
    console.print(facts)
    if not findings:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("severity", "rule"):
        table.add_column(heading, no_wrap=True)
    table.add_column("where, what, and how to mend it", overflow="fold")
    for group in _alike(findings):
        first = group[0]
        where = some([finding.node for finding in group if finding.node]) or "the model"
        text = Text.assemble((where, "bold"), f"\n{first.message}\n", (first.fix, "dim"))
        table.add_row(Text(first.severity, STYLES[first.severity]), first.rule, text)
    console.print(table)


def _alike(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of one rule that are mended in one way, together."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.rule, finding.fix), []).append(finding)
    return list(groups.values())


def _counted(findings: Sequence[Finding]) -> str:
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}
    named = [f"{count} {severity}{'s' if count > 1 else ''}" for severity, count in counts.items() if count]
    return ", ".join(named) or "nothing to mend"


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid
