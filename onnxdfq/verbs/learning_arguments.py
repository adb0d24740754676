"""Arguments of `quantize` about recipes in which the graph learns."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from onnxdfq.verbs.argument_types import number


def add(parser: argparse.ArgumentParser) -> None:
    """Put the arguments into the verb's parser."""
    add = parser.add_argument_group("recipe, and what is demanded").add_argument
    add(
        "--recipe",
        default="balanced",
        metavar="R",
        help="fast, balanced (default), accurate; auto: the cheapest that is good enough; dynadfq: bits for each "
        "image; gdfq, qimera, adadfq: as published",
    )
    add(
        "--min-agreement",
        type=number,
        metavar="P",
        help="of held-out images that keep their class, else exit code 4; auto (90; 98 of yours) and dynadfq go by it",
    )
    add("--max-drop", type=number, metavar="POINTS", help="of top-1 with --eval, else of agreement; the same")
    add("--rollback", action="store_true", help="put the fewest layers back to 8 bits, then to float, until that holds")
    add(
        "--mean-cost",
        type=number,
        metavar="SHARE",
        help="with dynadfq, instead: what an image costs, of the last level",
    )
    add = parser.add_argument_group("recipes that learn").add_argument
    add("--iterations", type=int, metavar="N", help="how long to learn")
    add("--epochs", type=number, metavar="E", help="the same for published schedules, in 200 iterations")
    add("--placement", default="target", metavar="P", help="of Q/DQ: what the target gains by (target), or paper")
    add("--log", type=Path, metavar="FILE.jsonl", help="what happens while learning, line by line; a PNG beside it")
    add("--checkpoints", type=Path, metavar="DIR", help="a run that was killed and is started again goes on from here")


def given(parsed: argparse.Namespace) -> dict[str, Any]:
    """The arguments as ``onnxdfq.quantize`` names them."""
    names = (
        "recipe",
        "min_agreement",
        "max_drop",
        "rollback",
        "iterations",
        "epochs",
        "placement",
        "log",
        "checkpoints",
    )
    return {name: getattr(parsed, name) for name in names}
