"""Which kernels run, in words and as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from onnxdfq.report.names import some
from onnxdfq.verify.kernels import KernelReport


def kernel_summary(report: KernelReport) -> str:
    """Kernels of the layers, the share of multiplications in integers, and what is left at run time."""
    counts = ", ".join(f"{count} {kernel}" for kernel, count in report.counts.items())
    share = "" if report.share is None else f"; {100 * report.share:.1f} % of multiplications in integers"
    unknown = f" ({report.without_macs} layers of unknown shape apart)" if report.without_macs else ""
    return f"{counts}{share}{unknown}; {report.quantize} Quantize and {report.dequantize} Dequantize nodes at run time"


def float_layers(report: KernelReport) -> dict[str, list[str]]:
    """Layers that compute in float, by reason."""
    found: dict[str, list[str]] = {}
    for layer in report.layers:
        if not layer.integer:
            found.setdefault(layer.reason, []).append(layer.node)
    return found


def show_kernels(report: KernelReport, console: Console) -> None:
    """What ONNX Runtime makes of a model on this machine's CPU."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("kernels", kernel_summary(report))
    for reason, nodes in float_layers(report).items():
        table.add_row("in float", f"{some(nodes)}: {reason}")
    others = ", ".join(f"{count} {op}" for op, count in report.floats.items())
    if others:
        table.add_row("float operators", others)
    console.print(table)
