"""The main job on the model that ships: quantize it without data, then count on digits that nobody trained on.

Run by `make demo`. The labelled digits come from scikit-learn and serve for counting only.
"""

import os
import sys
from pathlib import Path

import numpy as np

from digits import held_out
from onnxdfq.cli import main

COMMAND = "quantize models/digits_mobilenet.onnx --target tensorrt --target ort-cpu --eval out/digits.npz -o out"


def demo() -> int:
    """Write out/digits_mobilenet.<target>.int8.onnx and print the report, with held-out top-1 before and after."""
    os.chdir(Path(__file__).parents[1])
    Path("out").mkdir(exist_ok=True)
    images, labels = held_out()
    np.savez("out/digits.npz", images=images, labels=labels)
    print(f"onnxdfq {COMMAND}", flush=True)
    return main(COMMAND.split())


if __name__ == "__main__":
    sys.exit(demo())
