"""The command that a report came from, for a second try."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from onnxdfq.config import Options
from onnxdfq.report.report import Report

# Options by their field, as far as another result hangs on them. Not: where things are kept, written and counted
VALUES = {
    "bits": "--bits", "act_bits": "--act-bits", "avg_bits": "--avg-bits", "size_budget": "--size-budget",
    "float_type": "--float-type", "compensation": "--compensation", "rounding": "--rounding", "scales": "--scales",
    "observer": "--observer", "recipe": "--recipe", "placement": "--placement", "iterations": "--iterations",
    "epochs": "--epochs", "images": "--images", "source": "--source", "effort": "--effort",
    "time_budget": "--time-budget", "domain": "--domain", "mean": "--mean", "std": "--std", "scale": "--scale",
    "input_shape": "--input-shape", "seed": "--seed",
}  # fmt: skip
FLAGS = {"all_layers": "--all-layers", "equalization": "--equalize", "compat": "--compat"}
BETWEEN = {"bits": "/", "input_shape": "x"}  # the numbers of an option


def again_as(report: Report, target: str) -> str:
    """`onnxdfq quantize` with the options that differ from what they are by default."""
    usual, options = asdict(Options()), report.options
    given = ["onnxdfq", "quantize", report.model, "--target", target]
    for field, option in VALUES.items():
        if field in options and options[field] != usual[field]:
            text = _text(field, options[field])
            given += [f"{option}={text}"] if text.startswith("-") else [option, text]
    given += [option for field, option in FLAGS.items() if options.get(field)]
    given += ["--bgr"] if options.get("order") == "BGR" else []
    given += ["--no-bias-correction"] if options.get("bias_correction") is False else []
    for aim in _aims(options.get("aims", {}), usual["aims"]):
        given += ["--aim", aim]
    return shlex.join(given)


def _text(field: str, value: Any) -> str:
    if field == "float_type":
        return {"float16": "fp16", "float32": "fp32"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return BETWEEN.get(field, ",").join(map(_number, value))
    return "none" if value is None else _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """As short as it can be said without loss."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _aims(given: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """As the command line has them: names, with a number where they have one."""
    changed = {name: value for name, value in given.items() if value != usual[name]}
    return [name if value is True else f"{name}={value:g}" for name, value in changed.items()]
