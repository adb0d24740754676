"""onnxdfq check: lint a quantized model, whoever made it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "lint a quantized model against a target, whoever made it"
EXAMPLE = "onnxdfq check model.int8.onnx --target tensorrt"


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, help="an ONNX file with Q/DQ nodes")
    add("--target", default="tensorrt", metavar="T", help="see `onnxdfq targets` (default tensorrt)")
    add("--strict", action="store_true", help="exit with 3 for warnings too, not only for errors")
    add("--json", action="store_true", help="print JSON")


def run(parsed: argparse.Namespace) -> int:
    from onnxdfq.check import check, exit_code, summary
    from onnxdfq.console import printer
    from onnxdfq.report.findings import show_findings
    from onnxdfq.report.kernels import show_kernels
    from onnxdfq.verify.kernels import kernels_of_file
    from passes.targets import TARGETS

    findings = check(parsed.model, parsed.target)
    target = TARGETS[parsed.target]
    ran = kernels_of_file(parsed.model) if target.kernels_shown else None
    if parsed.json:
        found = summary(parsed.model, parsed.target, findings)
        print(json.dumps(found | {"kernels": ran.to_json() if ran else None}, indent=1))
    else:
        console = printer()
        show_findings(parsed.model, target, findings, console)
        if ran:
            show_kernels(ran, console)
    return exit_code(findings, parsed.strict)
