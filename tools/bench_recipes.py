"""Which recipe to take: minutes and top-1 of each, on labelled images that take no part in it.

    python tools/bench_recipes.py model.onnx labelled.npz --bits 4 --act-bits 4 [--recipes balanced,accurate]
                                  [--seeds 0,1,2] [--all-layers] [--placement paper] [--iterations 500] [--cache DIR]

One line for each recipe: top-1 of the float model, mean and spread over seeds of that of the quantized one, the same
for agreement, minutes, and the drop as a share of that of the first recipe in the same run. labelled.npz is what
`onnxdfq quantize --eval` takes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import onnxdfq
from onnxdfq.recipes import RECIPES

TARGET = "ort-cpu"


def measured(model: Path, recipe: str, seeds: list[int], options: dict[str, Any]) -> tuple[float, np.ndarray]:
    """Top-1 of the float model, and a row for each seed: top-1, agreement on held-out synthetic images, minutes."""
    rows, accuracy = [], 0.0
    for seed in seeds:
        began = time.perf_counter()
        done = onnxdfq.quantize(model, target=TARGET, recipe=recipe, seed=seed, **options)
        assert done is not None  # there is one process only
        found = done.report.targets[TARGET]
        accuracy = done.report.accuracy or 0.0
        rows.append((found.accuracy, found.agreement.top1, (time.perf_counter() - began) / 60))
        print(f"  {recipe}, seed {seed}: {found.learning or found.rounding}", flush=True)
    return accuracy, np.array(rows, float)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("labelled", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--act-bits", type=int, default=4)
    parser.add_argument("--recipes", default="balanced,accurate")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--all-layers", action="store_true")
    parser.add_argument("--placement", default="target")
    parser.add_argument("--iterations", type=int, help="of recipes that learn")
    parser.add_argument("--cache", type=Path)
    parsed = parser.parse_args()
    first = 0.0
    for name in parsed.recipes.split(","):
        options = {
            "bits": parsed.bits, "act_bits": parsed.act_bits, "evaluate": parsed.labelled,
            "all_layers": parsed.all_layers, "placement": parsed.placement, "cache": parsed.cache,
            "iterations": parsed.iterations if RECIPES[name].tuning else None,
        }  # fmt: skip
        accuracy, rows = measured(parsed.model, name, [int(seed) for seed in parsed.seeds.split(",")], options)
        top1, agreement, minutes = rows.mean(0)
        first = first or accuracy - top1
        print(
            f"{name}: fp32 {accuracy:.2f}, W{parsed.bits}A{parsed.act_bits} {top1:.2f} "
            f"({rows[:, 0].min():.2f} to {rows[:, 0].max():.2f}), agreement {agreement:.1f}, {minutes:.1f} minutes, "
            f"drop {accuracy - top1:.2f}, {(accuracy - top1) / first if first else 1:.2f} of the first",
            flush=True,
        )


if __name__ == "__main__":
    main()
