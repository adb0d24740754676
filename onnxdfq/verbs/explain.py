"""onnxdfq explain: why a node is float, and where each scale comes from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from onnxdfq.errors import OnnxdfqError

HELP = "why a node is in integers or in float on a target, and where each scale comes from"
EXAMPLE = "onnxdfq explain model.onnx Conv_12 --target ort-cpu"


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, help="a float model, or a quantized one (then with its scales)")
    add("node", nargs="?", help="name of a node, or of a tensor it writes; without it all nodes, one line each")
    add("--target", default="tensorrt", metavar="T", help="see `onnxdfq targets` (default tensorrt)")
    add("--json", action="store_true", help="print JSON")


def run(parsed: argparse.Namespace) -> None:
    from onnxdfq.explain import explain
    from passes.targets import TARGETS

    if parsed.target not in TARGETS:
        raise OnnxdfqError(f"--target {parsed.target} is not known", f"choose from {', '.join(TARGETS)}")
    found = explain(parsed.model, parsed.target, parsed.node)
    if parsed.json:
        print(json.dumps([facts.to_json() for facts in found], indent=1))
        return
    for facts in found:
        print(f"{facts.node} ({facts.op}) on {parsed.target}: {facts.verdict}")
        for tensor in facts.tensors if parsed.node else ():
            print(f"  {tensor.role} {tensor.name}: {tensor.state}\n    {tensor.why}")
