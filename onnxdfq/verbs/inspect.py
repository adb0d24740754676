"""onnxdfq inspect: what is in a model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from onnxdfq.verbs.argument_types import bits_or_pair

HELP = "what is in a model, what would be quantized, what not and why"
EXAMPLE = "onnxdfq inspect model.onnx"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument(
        "--bits",
        type=bits_or_pair,
        metavar="B|LOW/HIGH",
        help="show which layers would get how many; 4/8 shows the pairs",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(parsed: argparse.Namespace) -> None:
    from onnxdfq.console import printer
    from onnxdfq.inspect import inspect
    from onnxdfq.report.tables import show_inspection

    found = inspect(parsed.model, parsed.bits)
    if parsed.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        show_inspection(found, printer())
