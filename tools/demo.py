"""The main job on the model that ships: quantize it without data, then count on digits that nobody trained on.

Run by `make demo`. The labelled digits come from scikit-learn and serve for counting only.
"""

import sys
from pathlib import Path

import numpy as np

from digits import held_out
from onnxdfq.cli import main

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out"


def demo() -> int:
    """Write out/digits_mobilenet.<target>.int8.onnx and print the report, with held-out top-1 before and after."""
    OUT.mkdir(exist_ok=True)
    images, labels = held_out()
    np.savez(OUT / "digits.npz", images=images, labels=labels)
    model = str(ROOT / "models" / "digits_mobilenet.onnx")
    arguments = ["--target", "tensorrt", "--target", "ort-cpu", "--eval", str(OUT / "digits.npz"), "-o", str(OUT)]
    print(f"onnxdfq quantize models/digits_mobilenet.onnx {' '.join(arguments[:4])} --eval out/digits.npz -o out")
    return main(["quantize", model, *arguments])


if __name__ == "__main__":
    sys.exit(demo())
