"""How long the weight passes take, and how much memory at most.

    python tools/bench_weights.py [MODEL.onnx ...]

For every model, and for one of random weights in the shape of ResNet-50 (102 MB): seconds of each pass, and the peak
memory from the first pass on of a process that does nothing else, the model itself and the interpreter included, as a
multiple of the file. Weights get 4 bits, the low layers of pairs 2.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxdfq.calibrate.layer_by_layer import round_layer_by_layer
from onnxdfq.images.procedural import procedural
from onnxdfq.model_file import with_shapes
from passes.allocate_bits import ends_of, uniform_bits
from passes.base import run_passes
from passes.canonicalize import CANONICAL
from passes.compensate import SMOOTH, Compensate, decide_compensation
from passes.dfmpc import DFMPC, decide_dfmpc
from passes.equalize import Equalize
from passes.fold_batchnorm import ChannelStats, FoldBatchNorm
from passes.freeze_weights import FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.layer_kernels import kernels_of
from passes.pairing import find_pairs
from passes.placement import place
from passes.plan import decide
from passes.propagate_moments import propagate
from passes.round_weights import RoundWeights
from passes.targets import TARGETS
from passes.weight_quantizer import WeightQuantizer, weight_quantizer

METHODS = ("nearest", "squant", "dfmpc", "gptq")
IMAGES = 8


def resnet50() -> onnx.ModelProto:
    """Random weights in the shape of ResNet-50, BatchNormalization folded."""
    rng, graph = np.random.default_rng(0), gs.Graph(opset=17, ir_version=8, name="resnet50")
    image = gs.Variable("image", np.float32, [1, 3, 224, 224])

    def conv(x: gs.Tensor, inner: int, outer: int, kernel: int, stride: int, relu: bool = True) -> gs.Tensor:
        name = f"conv{len(graph.nodes)}"
        weight = rng.normal(0, (2 / (inner * kernel**2)) ** 0.5, (outer, inner, kernel, kernel)).astype(np.float32)
        attrs = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        held = [gs.Constant(f"{name}_w", weight), gs.Constant(f"{name}_b", np.zeros(outer, np.float32))]
        (y,) = graph.layer(op="Conv", name=name, inputs=[x, *held], outputs=[f"{name}_y"], attrs=attrs)
        return rectified(y) if relu else y

    def rectified(x: gs.Tensor) -> gs.Tensor:
        name = f"relu{len(graph.nodes)}"
        return graph.layer(op="Relu", name=name, inputs=[x], outputs=[f"{name}_y"])[0]

    attrs = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    x, channels = conv(image, 3, 64, 7, 2), 64
    (x,) = graph.layer(op="MaxPool", name="pool", inputs=[x], outputs=["pooled"], attrs=attrs)
    for width, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first if block == 0 else 1
            y = conv(conv(x, channels, width, 1, 1), width, width, 3, stride)
            y = conv(y, width, 4 * width, 1, 1, relu=False)
            x = conv(x, channels, 4 * width, 1, stride, relu=False) if block == 0 else x
            (x,) = graph.layer(
                op="Add", name=f"add{len(graph.nodes)}", inputs=[y, x], outputs=[f"sum{len(graph.nodes)}"]
            )
            x, channels = rectified(x), 4 * width
    (x,) = graph.layer(op="GlobalAveragePool", name="mean", inputs=[x], outputs=["features"])
    (x,) = graph.layer(op="Flatten", name="flat", inputs=[x], outputs=["row"])
    held = [gs.Constant("fc_w", rng.normal(0, 0.02, (2048, 1000)).astype(np.float32))]
    graph.layer(op="Gemm", name="fc", inputs=[x, *held], outputs=["scores"])
    graph.inputs, graph.outputs = [image], [graph.nodes[-1].outputs[0]]
    graph.outputs[0].dtype = np.float32
    return gs.export_onnx(graph)


def measure(file: Path, method: str) -> None:
    """Run the passes of one method, print the seconds of each, and the peak memory."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = step()
        seconds[name] = time.perf_counter() - started
        return found

    graph = gs.import_onnx(with_shapes(onnx.load(file)))
    run_passes(graph, CANONICAL)
    for tensor in graph.tensors().values():  # read them all, so that the message they come from is let go
        if isinstance(tensor, gs.Constant):
            tensor.values  # noqa: B018
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins here, not with reading the file
    fold, target = FoldBatchNorm(), replace(TARGETS["ort-cpu"], weights_only=True)
    timed("fold", lambda: fold(graph))
    if method == "squant":
        timed("equalize", lambda: Equalize(statistics=fold.statistics)(graph))
    placement = place(graph, target)
    layers = {site.layer for site in placement.weights.values()}
    pairing = timed("pair", lambda: find_pairs(graph, layers, ends_of(graph, layers)))
    chosen = pairing.bits(2, 6) if method == "dfmpc" else {}
    by_weights = uniform_bits(graph, placement, 4, chosen=chosen)
    plan = timed("decide", lambda: decide(graph, {}, target, by_weights, placement))
    bits = {placement.weights[name].layer: width for name, width in by_weights.items()}
    quantized = graph.copy()  # weights are shared until a pass replaces them
    timed("insert", lambda: InsertQDQ(plan)(quantized))
    if method == "squant":
        timed("round", lambda: RoundWeights("squant", bits)(quantized))
        timed("compensate", lambda: compensate(graph, quantized, fold.statistics))
    elif method == "dfmpc":
        timed("compensate", lambda: DFMPC(decide_dfmpc(graph, pairing.pairs, bits, fold.gains))(quantized))
    elif method == "gptq":
        name, _, height, width = graph.inputs[0].name, *graph.inputs[0].shape[1:]
        pixels = procedural(IMAGES, 3, height, width, np.random.default_rng(0)) / 64 - 2
        batches = [{name: pixels[k : k + 1].astype(np.float32)} for k in range(IMAGES)]
        timed("round", lambda: round_layer_by_layer(quantized, graph, bits, batches))
    timed("freeze", lambda: FreezeWeights()(quantized))
    # Not getrusage: a process inherits the peak of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
    words = ", ".join(f"{name} {spent:.2f}" for name, spent in seconds.items() if spent >= 0.005)
    print(f"  {method:8} {sum(seconds.values()):6.2f} s, peak {peak / file.stat().st_size:5.2f} x file   ({words})")


def compensate(graph: gs.Graph, quantized: gs.Graph, statistics: dict[str, ChannelStats]) -> None:
    """Moments given back, as `--compensation dfmpc+ --rounding squant` does."""
    rounded = {}
    for node in quantized.nodes:
        found = weight_quantizer(node) if len(node.inputs) > 1 else ""
        if isinstance(found, WeightQuantizer):
            rounded[node.name] = kernels_of(node, found.weights.values)
    known = {graph.inputs[0].name: ChannelStats(np.zeros(3), np.ones(3)), **statistics}
    found, _ = decide_compensation(graph, rounded, propagate(graph, known), dict.fromkeys(rounded, SMOOTH))
    Compensate(found)(quantized)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)  # in a process of its own
    parsed = parser.parse_args()
    if parsed.method:
        measure(parsed.models[0], parsed.method)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "resnet50_shaped.onnx"
        onnx.save(resnet50(), made)
        for file in [*parsed.models, made]:
            print(f"{file.name} ({file.stat().st_size / 1e6:.1f} MB)", flush=True)
            for method in METHODS:
                subprocess.run([sys.executable, __file__, str(file), "--method", method], check=True)


if __name__ == "__main__":
    main()
