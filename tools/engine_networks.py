"""How far the torch engine is from ONNX Runtime on whole models, as the largest relative error of their outputs.

    python tools/engine_networks.py                    # the networks of the tests, by both exporters, at all opsets
    python tools/engine_networks.py MODEL.onnx ...     # these models, on random images

Each figure is max |ours - theirs| / max |theirs|, the worst over all outputs and over both ways to lower a model: for
any shape, and for the shape at hand. Ends with 1 if one of them is above 1e-4.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from importlib.metadata import version
from pathlib import Path

import onnx
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from onnxdfq.errors import OnnxdfqError
from tests.onnxdfq.engine.agreement import LIMIT, random_inputs, relative_error
from tests.onnxdfq.engine.exports import Exporter, exported
from tests.onnxdfq.engine.networks import FIRST_OPSET, NETWORKS, OPEN_AXES, build, images, other_images

EXPORTS: list[tuple[Exporter, int, bool]] = [  # exporter, opset, whether shapes are left open
    *(("torchscript", opset, False) for opset in (9, 11, 13, 17, 20)),
    *(("torchscript", opset, True) for opset in (9, 17)),
    *(("dynamo", opset, False) for opset in (18, 20, 23)),
    ("dynamo", 20, True),
]


def table_of_networks() -> list[float]:
    """Print a line for each network; a dash where the exporter cannot write it at that opset."""
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "onnxscript", "onnx")), end=", ")
    print("+ marks exports with open shapes, run on others than they were exported with\n")
    print(f"{'':18}" + "".join(f"{exporter:>12}" for exporter, _, _ in EXPORTS))
    print(f"{'opset':18}" + "".join(f"{str(opset) + '+' * is_open:>12}" for _, opset, is_open in EXPORTS))
    errors = []
    for name in NETWORKS:
        print(f"{name:18}", end="", flush=True)
        network = build(name)
        for exporter, opset, is_open in EXPORTS:
            if opset < FIRST_OPSET.get(name, 0):
                print(f"{'-':>12}", end="", flush=True)
                continue
            model = exported(network, images(2), exporter, opset, OPEN_AXES[name] if is_open else ())
            image = other_images(name) if is_open else images(2)
            errors.append(max(relative_error(model, [image], static) for static in (False, True)))
            print(f"{errors[-1]:12.1e}", end="", flush=True)
        print()
    return errors


def table_of_models(files: list[Path]) -> list[float]:
    """Print a line for each file."""
    errors = []
    for file in files:
        model = onnx.load(file)
        inputs = random_inputs(model)
        shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in inputs)
        print(f"{file.name:44}{shapes:>16}", end="", flush=True)
        try:
            errors.append(max(relative_error(model, inputs, static) for static in (False, True)))
            print(f"{errors[-1]:10.1e}")
        except OnnxdfqError as error:
            errors.append(math.inf)
            print(f"  {error}")
    return errors


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="MODEL.onnx")
    files = parser.parse_args().files
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # says for each export which packages it does without
    torch.set_num_threads(1)
    errors = table_of_models(files) if files else table_of_networks()
    print(f"\n{len(errors)} comparisons, largest error {max(errors):.1e}, limit {LIMIT:.0e}")
    return int(not all(error <= LIMIT for error in errors))


if __name__ == "__main__":
    sys.exit(main())
