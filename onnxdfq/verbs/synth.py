"""onnxdfq synth: the images that a model would be quantized with, as a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from onnxdfq.errors import OnnxdfqError
from onnxdfq.verbs import image_arguments

HELP = "make images from a model itself, to calibrate or tune it with"
EXAMPLE = "onnxdfq synth model.onnx -n 512 -o images.npz --sheet sheet.png"
COMMON = (
    "model",
    "-o",
    "-n",
    "--sheet",
    "--images",
    "--source",
    "--effort",
    "--time-budget",
    "--cache",
    "--domain",
    "--seed",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, help="a float ONNX file")
    add("-o", "--output", type=Path, required=True, help="npz of RGB images [N, H, W, C] and labels")
    add("-n", type=int, default=128, metavar="N", help="how many (default 128)")
    add("--sheet", type=Path, metavar="FILE.png", help="a picture of what was made")
    image_arguments.add(parser)


def run(parsed: argparse.Namespace) -> None:
    # Imports wait until here: --help has to be quick.
    from onnxdfq.api import synth
    from onnxdfq.console import Progress, printer, progress_for
    from onnxdfq.images.ranks import joined
    from onnxdfq.model_file import check_writable
    from onnxdfq.report.tables import show_synthesis

    files = [parsed.output, *([parsed.sheet] if parsed.sheet is not None else [])]
    for file in files:
        check_writable(file, parsed.model)
    if len({file.resolve() for file in files}) < len(files):
        raise OnnxdfqError(f"{parsed.sheet} would be written twice", "give -o and --sheet different names")
    with joined() as ranks:
        progress = progress_for(parsed.quiet) if ranks.rank == 0 else Progress()
        done = synth(
            parsed.model,
            parsed.n,
            output=parsed.output,
            sheet=parsed.sheet,
            ranks=ranks,
            progress=progress,
            **image_arguments.given(parsed),
        )
    if done is not None:
        console = printer()
        show_synthesis(done.report, files, len(done.images), console)
