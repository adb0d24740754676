"""onnxdfq run: a bundle on images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "run a bundle of `--recipe dynadfq` on images: each at the level that is enough for it"
EXAMPLE = "onnxdfq run model.dynamic photos/ -o answers.npz"


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=Path, help="the folder that `quantize --recipe dynadfq` wrote")
    add("images", type=Path, help="a folder of images, or an npz")
    add("-o", "--output", type=Path, metavar="FILE.npz", help="outputs by name, and the level of each image")
    add("--device", default="auto", metavar="auto|cpu|cuda", help="where it runs")
    add("--json", action="store_true", help="print the summary as JSON")


def run(parsed: argparse.Namespace) -> None:
    # Imports wait until here: --help has to be quick.
    from onnxdfq.console import printer
    from onnxdfq.dynamic.on_images import run_on_images
    from onnxdfq.dynamic.tables import show_answers
    from onnxdfq.model_file import check_writable

    if parsed.output is not None:
        check_writable(parsed.output, parsed.images)
    done = run_on_images(parsed.bundle, parsed.images, parsed.output, parsed.device)
    if parsed.json:
        print(json.dumps(done.to_json(), indent=1))
    else:
        show_answers(done, printer())
