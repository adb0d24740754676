"""onnxdfq retarget: the same model for another runtime, without calibrating again."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from onnxdfq.errors import OnnxdfqError
from onnxdfq.verbs import argument_types

HELP = "the same model for another runtime, from ranges that were measured before"
EXAMPLE = "onnxdfq retarget model.ort-cpu.int8.onnx --target tensorrt"


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, help="a model that onnxdfq quantized, or the float one with --ranges")
    add("--target", required=True, metavar="T", help="see `onnxdfq targets`")
    add("-o", "--output", type=Path, help="the new file (default: MODEL.<target>.int<bits>.onnx)")
    add("--ranges", type=Path, metavar="REPORT.json", help="what `quantize --report` wrote")
    add(
        "--bits",
        type=argument_types.bits,
        default=8,
        metavar="B",
        help="of a float model's weights; a quantized one's stay",
    )
    add("--all-layers", action="store_true", help="with --bits: the first and last layers too")
    add("--compat", action="store_true", help="keep weights of 2 to 4 bits in plain int8")
    add("--float-type", type=argument_types.float_type, default="float32", metavar="F", help="fp32 (default) or fp16")


def run(parsed: argparse.Namespace) -> None:
    from onnxdfq.api import output_files
    from onnxdfq.config import Options
    from onnxdfq.model_file import check_writable, write_model
    from onnxdfq.retarget import retarget
    from passes.targets import TARGETS

    options = Options(
        bits=parsed.bits,
        targets=(parsed.target,),
        all_layers=parsed.all_layers,
        compat=parsed.compat,
        float_type=parsed.float_type,
    )
    named = re.fullmatch(rf"(.+)\.(?:{'|'.join(TARGETS)})\.int([\d.-]+)", parsed.model.stem)  # model.ort-cpu.int4
    stem, bits = named.groups() if named else (parsed.model.stem, str(parsed.bits))
    file = output_files(parsed.model.with_name(f"{stem}.onnx"), bits, options.targets, parsed.output)[parsed.target]
    check_writable(file, parsed.model)
    if parsed.ranges is not None and not parsed.ranges.is_file():
        raise OnnxdfqError(f"{parsed.ranges} does not exist", "give what `quantize --report` wrote")
    model, plan = retarget(parsed.model, options, parsed.ranges)
    write_model(model, file)
    activations = len(plan.readers)
    weights = len(plan.tensors) - activations
    print(f"written to {file}: {weights} weights and {activations} activations in integers, from stored ranges")
    print("biases are those of the input; nothing was measured. `onnxdfq check` lints the result")
