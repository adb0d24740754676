"""Arguments of all verbs that make images: what the model is fed with, where images come from, how long it may take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from onnxdfq.verbs.argument_types import number, numbers, seconds, seed, shape


def add(parser: argparse.ArgumentParser) -> None:
    """Put the arguments into a verb's parser."""
    add = parser.add_argument_group("images").add_argument
    add("--images", type=Path, metavar="DIR|NPZ", help="yours: `quantize` takes them as they are, `synth` begins there")
    add("--source", metavar="S", help="procedural, inversion, gdfq, qimera or adadfq; by default that of the recipe")
    add(
        "--aim",
        action="append",
        default=[],
        metavar="A",
        help="hard=0.3, boundary=0.3, difficult=0.5, dot, cutoff=0.25, crops, swing, unlabelled",
    )
    add("--effort", type=int, metavar="1..5", help="steps that images take (default 2)")
    add(
        "--time-budget",
        type=seconds,
        metavar="120s",
        help="as many steps, of images and of learning, as fit into this time",
    )
    add("--cache", type=Path, metavar="DIR", help="keep images here: killed runs go on, later ones find them")
    add_input(parser)
    add = parser.add_argument_group("how it runs").add_argument
    add("--device", default="auto", metavar="auto|cpu|cuda", help="for gradients and verification")
    add("--seed", type=seed, default=0, help="same seed, same bytes (default 0)")
    add("--quiet", action="store_true", help="no progress")


def add_input(parser: argparse.ArgumentParser) -> None:
    """Those about what the model is fed with, alone."""
    add = parser.add_argument_group("what the model is fed with").add_argument
    add("--domain", metavar="D", help="imagenet, unit, raw255, pm1, caffe; else inferred")
    add("--mean", type=numbers, metavar="M,..", help="with --std: input = (pixel * scale - mean) / std")
    add("--std", type=numbers, metavar="S,..")
    add("--scale", type=number, default=1.0, help="1 (default) where mean and std are in pixels, else 0.00392157")
    add("--bgr", action="store_true", help="the model takes BGR (with --mean and --std)")
    add("--input-shape", type=shape, metavar="1x3xHxW", help="where H and W are free")


def given_input(parsed: argparse.Namespace) -> dict[str, Any]:
    """The latter, as ``onnxdfq.quantize`` and its like name them."""
    names = ("domain", "mean", "std", "scale", "input_shape")
    return {name: getattr(parsed, name) for name in names} | {"order": "BGR" if parsed.bgr else "RGB"}


def given(parsed: argparse.Namespace) -> dict[str, Any]:
    """The arguments as ``onnxdfq.quantize`` and ``onnxdfq.synth`` name them."""
    return given_input(parsed) | {
        "images": parsed.images,
        "source": parsed.source,
        "aims": parsed.aim,
        "effort": parsed.effort,
        "time_budget": parsed.time_budget,
        "cache": parsed.cache,
        "device": parsed.device,
        "seed": parsed.seed,
    }
