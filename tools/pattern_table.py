"""What becomes of the patterns that networks are made of, on each target: a table, in Markdown.

    python tools/pattern_table.py                                         # all patterns
    python tools/pattern_table.py conv-silu attention                     # these
    python tools/pattern_table.py --golden > tests/passes/patterns.txt    # the plans that the tests expect

In the columns of ONNX Runtime and OpenVINO is what these run; of the others, how many layers and tensors are in
integers. "dB" is how far the pattern's result stands above the error of 8 bits, computed as the file is written.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_openvino import executed, loaded

from passes.targets import TARGETS
from tests.passes.conftest import decibels, run
from tests.passes.patterns import CPU, HELD_OUT, PATTERNS, feeds_of, golden, kernels, made, model_of, outputs

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
AT_THE_ENDS = ("QuantizeLinear", "DequantizeLinear")


def counted(found: Counter[str]) -> str:
    """2 QLinearConv, QLinearAdd"""
    return ", ".join(f"{count} {op}" if count > 1 else op for op, count in found.items()) or "nothing"


def on_onnxruntime(name: str) -> str:
    """Its kernels, and how many Q and DQ are left beside those at the two ends."""
    found, model = kernels(name, CPU[0]), model_of(name).graph
    inside = Counter({op: found.pop(op, 0) for op in AT_THE_ENDS}).total() - len(model.input)
    inside -= sum(dequantized(name, each.name) for each in model.output)
    return f"{counted(found)}; {inside} Q/DQ inside"


def dequantized(name: str, tensor: str) -> bool:
    """Whether an output of a pattern leaves ONNX Runtime's kernels in integers."""
    nodes = made(name, CPU[0]).quantized.graph.node
    return any(node.op_type == "DequantizeLinear" and tensor in node.output for node in nodes)


def on_openvino(name: str) -> str:
    """Its layers by type, and the rest by kind."""
    try:
        found = executed(loaded(made(name, "openvino").quantized))
    except ImportError:
        return in_integers(name, "openvino")
    return counted(found)


def in_integers(name: str, target: str) -> str:
    """Layers and other nodes in integers, tensors quantized, and what stays in float."""
    each = made(name, target)
    layers = [node for node in each.graph.nodes if node.op in LAYERS]
    weights = {site.layer for site in each.placed.weights.values()}
    others = Counter(node.op for node in each.graph.nodes if node.name in each.placed.integer - weights)
    read = sum(bool(nodes) for nodes in each.placed.readers.values())
    words = [f"{len(weights)} of {len(layers)} layers", *([counted(others)] if others else []), f"{read} tensors"]
    reasons = dict.fromkeys(skip.reason for skip in each.placed.skips)
    named = {reason: ", ".join(skip.node for skip in each.placed.skips if skip.reason == reason) for reason in reasons}
    return "; ".join([", ".join(words), *(f"{nodes} in float: {reason}" for reason, nodes in named.items())])


def closeness(name: str, target: str) -> float:
    """dB"""
    feeds = feeds_of(name, HELD_OUT)
    expected = outputs(model_of(name), feeds).values()
    computed = run(made(name, target).quantized, *feeds.values())
    return min(decibels(one, other) for one, other in zip(expected, computed, strict=True))


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="PATTERN")
    parser.add_argument("--golden", action="store_true", help="plans and kernels, as the tests compare them")
    parsed = parser.parse_args()
    names = parsed.names or list(PATTERNS)
    if unknown := set(names) - set(PATTERNS):
        parser.error(f"no pattern is called {', '.join(sorted(unknown))}; there are {', '.join(PATTERNS)}")
    if parsed.golden:
        print("\n".join(golden(name) for name in names))
        return
    columns = [name for name in TARGETS if name not in CPU[1:]]
    print(f"| pattern | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in names:
        if any(kernels(name, target) != kernels(name, CPU[0]) for target in CPU):
            raise SystemExit(f"{name}: ONNX Runtime's CPU targets differ")
        cells = {target: in_integers(name, target) for target in columns}
        cells |= {CPU[0]: on_onnxruntime(name), "openvino": on_openvino(name)}
        row = [f"{cells[target]}; {closeness(name, target):.0f} dB" for target in columns]
        print(f"| {name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
