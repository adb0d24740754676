"""onnxdfq targets: the runtimes that models can be made for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

HELP = "the runtimes that models can be made for, and what each wants"
EXAMPLE = "onnxdfq targets --json"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(parsed: argparse.Namespace) -> None:
    from onnxdfq.console import printer
    from onnxdfq.report.targets import show_targets
    from passes.targets import TARGETS

    if parsed.json:
        print(json.dumps(TARGETS, indent=1, default=_plain))
    else:
        show_targets(TARGETS.values(), printer())


def _plain(value: Any) -> Any:
    """What JSON does not know: mappings that cannot be changed, sets, and descriptions."""
    if isinstance(value, Mapping):
        return dict(value)
    return sorted(value) if isinstance(value, frozenset) else vars(value)
