"""onnxdfq quantize: a quantized model from a float one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from onnxdfq.errors import OnnxdfqError
from onnxdfq.verbs import dynamic, image_arguments, learning_arguments
from onnxdfq.verbs.argument_types import average_or_levels, bits_or_levels, bits_or_none, float_type, number

GATE = 4  # exit code
HELP = "make a quantized model from a float one, without data"
EXAMPLE = "onnxdfq quantize model.onnx --target ort-cpu -o model.int8.onnx"


COMMON = (
    "model", "-o", "--bits", "--act-bits", "--avg-bits", "--target", "--recipe", "--min-agreement", "--max-drop",
    "--rollback", "--images", "--cache", "--domain", "--seed", "--config", "--eval", "--html",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, help="a float ONNX file")
    add("-o", "--output", type=Path, help="file, or folder for several targets (model.<target>.int8.onnx)")
    add(
        "--target",
        action="append",
        metavar="T",
        help="see `onnxdfq targets`; by default tensorrt; repeat it",
    )
    _about_bits(parser)
    learning_arguments.add(parser)
    image_arguments.add(parser)
    add = parser.add_argument_group("decisions").add_argument
    add("--config", type=Path, metavar="FILE.toml", help="bits or float for single nodes, by name or operator")
    add("--plan-out", type=Path, metavar="FILE.json", help="write the plan; a folder for several targets")
    add("--plan", type=Path, metavar="FILE.json", help="apply a plan, edited or not, for its target")
    add = parser.add_argument_group("report").add_argument
    add("--eval", type=Path, metavar="DIR|NPZ", help="labelled images for the report; they calibrate nothing")
    add("--report", type=Path, metavar="FILE.json", help="write the report as JSON")
    add("--html", type=Path, metavar="FILE.html", help="write the report as a page, with its JSON beside it")
    add("--json", action="store_true", help="print the report as JSON")


def _about_bits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("bits").add_argument
    add(
        "--bits",
        type=bits_or_levels,
        default=8,
        metavar="B|LOW/HIGH",
        help="of the weights, 2 to 8 (default 8); 4/8: a low-bit layer before a high-bit one; with dynadfq levels of "
        "weights and activations, 4/6/8 or 8/fp32",
    )
    add(
        "--act-bits",
        type=bits_or_none,
        default=8,
        metavar="A",
        help="of the activations: 2 to 8 (default), 16, or none",
    )
    add("--size-budget", type=number, metavar="SHARE", help="bits by layer, for this share of the float32 bytes")
    add(
        "--avg-bits",
        type=average_or_levels,
        metavar="X",
        help="bits by layer, X on average, such as 4.5; with dynadfq levels of such, 4/5.5",
    )
    add("--all-layers", action="store_true", help="the first and last layers too; else they keep 8 bits")
    add("--compat", action="store_true", help="keep weights of 2 to 4 bits in plain int8")
    add(
        "--float-type",
        type=float_type,
        default="float32",
        metavar="F",
        help="fp32 (default) or fp16, for what stays float",
    )
    add = parser.add_argument_group("how numbers are rounded").add_argument
    add("--rounding", metavar="R", help="of the weights: nearest, squant or gptq (default)")
    add("--scales", metavar="S", help="of the weights: min-max, mse or lp; by default what suits the bits")
    add("--compensation", metavar="C", help="with LOW/HIGH: dfmpc+ (default), dfmpc as published, or none")
    add("--equalize", action="store_true", help="make weights alike across layers first: for one scale in all channels")
    add("--observer", metavar="O", help="min-max, percentile, mse or entropy; by default what suits the bits")
    add("--no-bias-correction", action="store_true", help="leave biases as they are")


def run(parsed: argparse.Namespace) -> int:
    if parsed.recipe == dynamic.RECIPE:
        return dynamic.run(parsed)
    dynamic.refuse_levels(parsed)
    # Imports wait until here: --help has to be quick.
    from onnxdfq.api import output_files, quantize
    from onnxdfq.config import bits_in_name
    from onnxdfq.console import Progress, printer, progress_for
    from onnxdfq.images.ranks import joined
    from onnxdfq.model_file import check_writable, write_bytes
    from onnxdfq.plan_file import plan_files, write_plan
    from onnxdfq.report.tables import show_report

    targets = tuple(dict.fromkeys(parsed.target or ["tensorrt"]))
    named = bits_in_name(parsed.bits, parsed.size_budget, parsed.avg_bits)
    files = output_files(parsed.model, named, targets, parsed.output)
    plans = plan_files(parsed.model, targets, parsed.plan_out) if parsed.plan_out is not None else {}
    if parsed.html is not None and parsed.report is None:
        parsed.report = parsed.html.with_suffix(".json")
    reports = [file for file in (parsed.report, parsed.html) if file is not None]
    for file in [*plans.values(), *reports]:
        check_writable(file, parsed.model)
    written = [file.resolve() for file in [*files.values(), *plans.values(), *reports]]
    for file in written:
        if written.count(file) > 1:
            raise OnnxdfqError(
                f"{file} would be written twice", "give -o, --plan-out, --report and --html different names"
            )
    with joined() as ranks:
        shown = progress_for(parsed.quiet) if ranks.rank == 0 else Progress()
        done = quantize(
            parsed.model,
            bits=parsed.bits,
            act_bits=parsed.act_bits,
            target=targets,
            output=files,
            observer=parsed.observer,
            bias_correction=not parsed.no_bias_correction,
            evaluate=parsed.eval,
            all_layers=parsed.all_layers,
            size_budget=parsed.size_budget,
            avg_bits=parsed.avg_bits,
            compensation=parsed.compensation,
            rounding=parsed.rounding,
            scales=parsed.scales,
            equalization=parsed.equalize,
            config=parsed.config,
            plan=parsed.plan,
            compat=parsed.compat,
            float_type=parsed.float_type,
            page=parsed.html,
            **learning_arguments.given(parsed),
            **image_arguments.given(parsed),
            ranks=ranks,
            progress=shown,
        )
    if done is None:
        return 0
    for target, file in plans.items():
        write_plan(done.report.targets[target].plan, file)
    text = json.dumps(done.report.to_json(), indent=1)
    if parsed.report is not None:
        write_bytes(text.encode(), parsed.report)
    if parsed.json:
        print(text)
    else:
        show_report(done.report, printer())
    if done.report.gate:
        print(f"onnxdfq: not good enough: {done.report.gate}", file=sys.stderr)
        return GATE
    return 0
