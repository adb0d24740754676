"""Arguments of `quantize` about recipes in which the graph learns."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from onnxdfq.verbs.argument_types import number


def add(parser: argparse.ArgumentParser) -> None:
    """Put the arguments into the verb's parser."""
    add = parser.add_argument
    add(
        "--recipe",
        default="balanced",
        metavar="R",
        help="fast: no torch, no gradients; balanced (default); these learn: accurate, qimera, adadfq, gdfq; or auto; "
        "dynadfq: bits for each image",
    )
    add(
        "--min-agreement",
        type=number,
        metavar="P",
        help="with auto: take the cheapest that agrees in P %% (98); with dynadfq: so many images keep their class",
    )
    add(
        "--mean-cost",
        type=number,
        metavar="SHARE",
        help="with dynadfq, instead: what an image costs, of the last level",
    )
    add("--iterations", type=int, metavar="N", help="how long to learn")
    add("--epochs", type=number, metavar="E", help="the same for published schedules, in 200 iterations")
    add("--placement", default="target", metavar="P", help="of Q/DQ: what the target gains by (target), or paper")
    add("--log", type=Path, metavar="FILE.jsonl", help="what happens while learning, line by line; a PNG beside it")
    add("--checkpoints", type=Path, metavar="DIR", help="a run that was killed and is started again goes on from here")


def given(parsed: argparse.Namespace) -> dict[str, Any]:
    """The arguments as ``onnxdfq.quantize`` names them."""
    names = ("recipe", "min_agreement", "iterations", "epochs", "placement", "log", "checkpoints")
    return {name: getattr(parsed, name) for name in names}
