"""Reports as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxdfq.inspect import Inspection
from onnxdfq.report.allocation import bits_in_words, pairs_in_words, show_sensitivity
from onnxdfq.report.kernels import float_layers, kernel_summary
from onnxdfq.report.names import some
from onnxdfq.report.report import Report, TargetReport

PAIRS_SHOWN = 4


def show_report(report: Report, console: Console) -> None:
    """The summary of a quantize run."""
    facts = facts_table()
    facts.add_row("model", f"{report.model} ({_size(report.size)})")
    facts.add_row("input", report.input)
    facts.add_row("assumed input", report.domain)
    facts.add_row("images", report.images)
    add_judgement(facts, report)
    facts.add_row("BatchNormalization", report.batchnorm)
    if report.equalization:
        facts.add_row("equalization", report.equalization)
    for notice in report.notices:
        facts.add_row("notice", notice)
    if report.rolled_back:
        facts.add_row("rolled back", ", ".join(f"{layer} ({kind})" for layer, kind in report.rolled_back.items()))
    slowest = sorted(report.stages.items(), key=lambda item: -item[1])[:4]
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest)
    facts.add_row("time", f"{sum(report.stages.values()):.1f} s ({times}), peak memory {report.peak_mb:.0f} MB")
    console.print(facts)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "target",
        "size",
        "int8 layers",
        "agreement",
        "SQNR",
        *(["top-1"] if report.accuracy is not None else []),
    ):
        table.add_column(heading)
    for name, target in report.targets.items():
        top1 = [f"{report.accuracy:.2f} -> {target.accuracy:.2f}"] if report.accuracy is not None else []
        table.add_row(
            name, _shrunk(report, target), f"{target.layers} of {target.of}", _agreement(target), _sqnr(target), *top1
        )
    console.print(table)
    for name, target in report.targets.items():
        details = facts_table()
        details.add_row("written to", target.file or "nowhere")
        details.add_row("weights", target.weights)
        for name_of, words in (
            ("budget", target.budget),
            ("rounding", target.rounding),
            ("learning", target.learning),
        ):
            if words:
                details.add_row(name_of, words)
        for line in pairs_in_words(target.pairing, PAIRS_SHOWN) if target.pairing is not None else ():
            details.add_row("pairs", Text(line))
        details.add_row("bias correction", target.bias_correction)
        details.add_row("verified on", f"{target.provider}, {target.agreement.images_in_words}")
        if target.kernels is not None:
            details.add_row("kernels", kernel_summary(target.kernels))
            for reason, nodes in float_layers(target.kernels).items():
                details.add_row("runs in float", f"{some(nodes)}: {reason}")
        for reason, nodes in target.skips.items():
            details.add_row("left in float", f"{some(nodes)}: {reason}")
        console.print(name, style="bold")
        console.print(details)
        if target.sensitivity is not None and target.budget:
            show_sensitivity(target.sensitivity, target.bits, console)


def add_judgement(facts: Table, report: Report) -> None:
    if report.rung:
        facts.add_row("rung", report.rung)
    facts.add_row("image quality", report.quality_in_words)
    if report.difficulty is not None:
        facts.add_row("difficulty", f"as meant, by rank: {report.difficulty:.2f} of 1 (Spearman)")


def show_synthesis(report: Report, files: Sequence[Path], count: int, console: Console) -> None:
    """What `onnxdfq synth` prints."""
    facts = facts_table()
    facts.add_row("model", f"{report.model} ({_size(report.size)})")
    facts.add_row("input", report.input)
    facts.add_row("assumed input", report.domain)
    facts.add_row("images", f"{count}, {report.images}")
    add_judgement(facts, report)
    for notice in report.notices:
        facts.add_row("notice", notice)
    facts.add_row("time", f"{sum(report.stages.values()):.1f} s, peak memory {report.peak_mb:.0f} MB")
    facts.add_row("written to", ", ".join(map(str, files)))
    console.print(facts)


def show_inspection(found: Inspection, console: Console) -> None:
    """What `onnxdfq inspect` prints."""
    facts = facts_table()
    facts.add_row("model", f"{found.model} ({_size(found.size)}, {found.parameters:,} numbers, opset {found.opset})")
    facts.add_row("inputs", _interface(found.inputs))
    facts.add_row("outputs", _interface(found.outputs))
    facts.add_row("operators", ", ".join(f"{count} {name}" for name, count in found.operators.items()))
    facts.add_row("BatchNormalization", f"{found.folded} can be folded, {len(found.kept)} stay")
    for skip in found.kept:
        facts.add_row("", f"{skip.node} stays: {skip.reason}")
    facts.add_row("image synthesis", _led_by(found))
    facts.add_row("note", "read as it is; quantize simplifies first, which may free more layers")
    console.print(facts)
    for name, target in found.targets.items():
        numbers = (
            f"{target['layers']} of {found.layers} layers in integers, {target['activations']} activations quantized"
        )
        console.print(Text.assemble((name, "bold"), f": {numbers}"))
        for reason, nodes in _by_reason(target["skips"]).items():
            console.print(f"  left in float: {some(nodes)}: {reason}", highlight=False)
    for title, key, in_words in (("bits of the weights", "bits", bits_in_words), ("pairs", "pairing", pairs_in_words)):
        for names, decided in _alike(found.targets, key):
            console.print(Text.assemble((title, "bold"), f" for {', '.join(names)}"))
            for line in in_words(decided):
                console.print(f"  {line}", highlight=False, markup=False)


def _alike(targets: Mapping[str, Mapping[str, Any]], key: str) -> list[tuple[list[str], Mapping[str, Any]]]:
    """What was decided for targets, if anything, each with the names of those that share it."""
    groups: list[tuple[list[str], Mapping[str, Any]]] = []
    for name, target in targets.items():
        decided = target.get(key)
        if decided is None:
            continue
        names = next((names for names, each in groups if each == decided), None)
        if names is None:
            groups.append(([name], decided))
        else:
            names.append(name)
    return groups


def _led_by(found: Inspection) -> str:
    if found.gradients:
        return f"procedural only: {found.gradients}"
    led = [f"{found.statistics} BatchNormalization statistics"] if found.statistics else []
    led += [f"{found.classes} classes"] if found.classes else []
    return f"led by {' and '.join(led)}" if led else "procedural: neither statistics nor classes"


def facts_table() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _by_reason(skips: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for skip in skips:
        found.setdefault(skip["reason"], []).append(skip["node"])
    return found


def _interface(entries: Mapping[str, Sequence[int | str]]) -> str:
    return ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in entries.items())


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _shrunk(report: Report, target: TargetReport) -> str:
    return f"{_size(report.size)} -> {_size(target.size)} ({target.size / report.size:.2f})"


def _agreement(target: TargetReport) -> str:
    found = target.agreement
    return "no classifier" if found.top1 is None else f"{found.top1:.1f} +- {found.error:.1f} %, KL {found.kl:.2g}"


def _sqnr(target: TargetReport) -> str:
    return ", ".join(f"{name} {value:.1f} dB" for name, value in target.agreement.sqnr.items())
