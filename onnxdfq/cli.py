"""The command line: arguments in, exit code out.

0 done, 1 a mistake that the message says how to mend, 2 a mistake of ours, 130 stopped by the user.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from onnxdfq.errors import OnnxdfqError
from passes.errors import PassError

WIDTH = 110  # of tables that go to a file or a pipe
USER_ERROR, INTERNAL_ERROR, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """One line for a wrong argument, as for every other mistake."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise OnnxdfqError(message, f"`{self.prog} --help` lists what is possible")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    try:
        parsed = _parser().parse_args(arguments)
        run = {"quantize": _quantize, "inspect": _inspect}[parsed.command]
        run(parsed)
    except OnnxdfqError as error:
        print(f"onnxdfq: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except PassError as error:
        print(f"onnxdfq: {error}. This is a bug: please report it with the model", file=sys.stderr)
        return INTERNAL_ERROR
    except BrokenPipeError:
        return USER_ERROR
    except KeyboardInterrupt:
        print("onnxdfq: stopped; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        print("onnxdfq: out of memory. Use a smaller --input-shape or another machine", file=sys.stderr)
        return USER_ERROR
    except Exception as error:  # whatever slipped through: one line with its place, never a traceback
        place = traceback.extract_tb(error.__traceback__)[-1]
        line = next(iter(str(error).splitlines()), "")[:200]
        where = f"{Path(place.filename).name}:{place.lineno}"
        print(f"onnxdfq: {type(error).__name__} in {where}: {line}. This is a bug: please report it", file=sys.stderr)
        return INTERNAL_ERROR
    return 0


def _quantize(parsed: argparse.Namespace) -> None:
    # Imports wait until here: --help has to be quick.
    from rich.console import Console

    from onnxdfq.api import output_files, quantize
    from onnxdfq.console import progress_for
    from onnxdfq.model_file import check_writable, write_bytes
    from onnxdfq.report.tables import show_report

    targets = tuple(dict.fromkeys(parsed.target or ["tensorrt"]))
    bits = _bits(parsed.bits)
    files = output_files(parsed.model, bits, targets, parsed.output)
    if parsed.report is not None:
        check_writable(parsed.report, parsed.model)
        if parsed.report.resolve() in [file.resolve() for file in files.values()]:
            raise OnnxdfqError(f"{parsed.report} would be report and model at once", "give --report another name")
    done = quantize(
        parsed.model,
        bits=bits,
        target=targets,
        recipe=parsed.recipe,
        output=files,
        domain=parsed.domain,
        mean=parsed.mean,
        std=parsed.std,
        scale=parsed.scale,
        order="BGR" if parsed.bgr else "RGB",
        input_shape=parsed.input_shape,
        observer=parsed.observer,
        bias_correction=not parsed.no_bias_correction,
        evaluate=parsed.eval,
        device=parsed.device,
        seed=parsed.seed,
        progress=progress_for(Console(stderr=True), parsed.quiet),
    )
    text = json.dumps(done.report.to_json(), indent=1)
    if parsed.report is not None:
        write_bytes(text.encode(), parsed.report)
    if parsed.json:
        print(text)
    else:
        show_report(done.report, Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False))


def _inspect(parsed: argparse.Namespace) -> None:
    from rich.console import Console

    from onnxdfq.inspect import inspect
    from onnxdfq.report.tables import show_inspection

    found = inspect(parsed.model)
    if parsed.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        show_inspection(found, Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="onnxdfq", description="Quantize ONNX models without data.")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="quantize|inspect", parser_class=_Parser)
    _quantize_arguments(
        verbs.add_parser(
            "quantize",
            help="make a quantized model from a float one",
            description="Make a quantized model from a float one, without data.",
            epilog="example: onnxdfq quantize model.onnx --target ort-cpu -o model.int8.onnx",
        )
    )
    inspect = verbs.add_parser(
        "inspect",
        help="what is in a model, what would be quantized, what not and why",
        epilog="example: onnxdfq inspect model.onnx",
    )
    inspect.add_argument("model", type=Path, help="an ONNX file")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _quantize_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, help="a float ONNX file")
    add("-o", "--output", type=Path, help="file, or folder for several targets (model.<target>.int8.onnx)")
    add("--bits", default="8", metavar="B", help="bits of the weights: 8")
    add("--target", action="append", metavar="T", help="tensorrt (default) or ort-cpu; give it twice for both")
    add("--recipe", default="balanced", metavar="R", help="balanced (default), or fast: no torch, no gradients")
    add("--domain", metavar="D", help="what the model is fed with: imagenet, unit, raw255, pm1, caffe; else inferred")
    add("--mean", type=_numbers, metavar="M,..", help="with --std: input = (pixel * scale - mean) / std")
    add("--std", type=_numbers, metavar="S,..")
    add("--scale", type=_number, default=1.0, help="1 (default) where mean and std are in pixels, else 0.00392157")
    add("--bgr", action="store_true", help="the model takes BGR (with --mean and --std)")
    add("--input-shape", type=_shape, metavar="1x3xHxW", help="where H and W are free")
    add("--observer", metavar="O", help="min-max, percentile, mse or entropy; by default what suits the bits")
    add("--no-bias-correction", action="store_true", help="leave biases as they are")
    add("--eval", type=Path, metavar="DIR|NPZ", help="labelled images for the report; they calibrate nothing")
    add("--device", default="auto", metavar="auto|cpu|cuda", help="for gradients and verification")
    add("--seed", type=_seed, default=0, help="same seed, same bytes (default 0)")
    add("--report", type=Path, metavar="FILE.json", help="write the report as JSON")
    add("--json", action="store_true", help="print the report as JSON")
    add("--quiet", action="store_true", help="no progress")


def _bits(text: str) -> int:
    if not text.isdecimal():
        raise OnnxdfqError(f"--bits {text} is not supported", "this version quantizes to 8 bits: --bits 8")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.split(","))


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 up")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not a shape such as 1x3x224x224")
    return tuple(map(int, parts))


if __name__ == "__main__":
    sys.exit(main())
