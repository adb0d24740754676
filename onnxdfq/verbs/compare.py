"""onnxdfq compare: two models with the same interface, side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from onnxdfq.verbs import image_arguments
from onnxdfq.verbs.argument_types import seed

HELP = "compare two models with the same interface: answers, tensors, latency"
EXAMPLE = "onnxdfq compare model.onnx model.int8.onnx --eval labelled/"


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("first", type=Path, help="an ONNX file, often the float one")
    add("second", type=Path, help="another, quantized by whomever")
    add("--images", type=Path, metavar="DIR|NPZ", help="to compare on; by default the labelled ones, else drawn ones")
    add("--eval", type=Path, metavar="DIR|NPZ", help="labelled images, for top-1 of both")
    image_arguments.add_input(parser)
    add = parser.add_argument_group("how it runs").add_argument
    add("--device", default="auto", metavar="auto|cpu|cuda", help="where both run")
    add("--seed", type=seed, default=0, help="of drawn images (default 0)")
    add("--html", type=Path, metavar="FILE.html", help="write a page")
    add("--json", action="store_true", help="print JSON")
    add("--quiet", action="store_true", help="no progress")


def run(parsed: argparse.Namespace) -> None:
    # Imports wait until here: --help has to be quick.
    from onnxdfq.compare import compare
    from onnxdfq.config import Options
    from onnxdfq.console import printer, progress_for
    from onnxdfq.model_file import check_writable, write_bytes
    from onnxdfq.report.comparison import comparison_page, show_comparison

    options = Options(
        images=parsed.images,
        evaluate=parsed.eval,
        **image_arguments.given_input(parsed),
        device=parsed.device,
        seed=parsed.seed,
    )
    if parsed.html is not None:
        check_writable(parsed.html, parsed.first)
    found = compare(parsed.first, parsed.second, options, progress_for(parsed.quiet))
    if parsed.html is not None:
        write_bytes(comparison_page(found).encode(), parsed.html)
    if parsed.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        show_comparison(found, printer())
