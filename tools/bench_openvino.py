"""How fast models run in OpenVINO: float, and ours for openvino; and whether it computes what ONNX Runtime computes.

    python tools/bench_openvino.py MODEL.onnx [...] [--runs 100] [--threads 2 1]

Both run in one process and take turns, each once a round, in an order drawn anew for every round. The ratio is that of
a round; its median is printed with its quartiles. The float model takes part twice: the ratio of the two is the noise.
"dB" is how far the result stands above its difference from ONNX Runtime's, for the same file.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

WARM_UP = 5
PLUMBING = {"Input", "Output", "Const", "Parameter", "Result", "Reorder", "Reshape", "Convert"}


def loaded(model: onnx.ModelProto, threads: int = 1) -> Any:
    """The model compiled for the CPU. Raises ImportError without OpenVINO."""
    import openvino

    core = openvino.Core()
    # Without the hint a processor with half-precision units would run the float model in half precision.
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)


def executed(network: Any) -> Counter[str]:
    """What a compiled model runs, such as "Convolution u8", without what only lays out memory."""
    facts = [node.get_rt_info() for node in network.get_runtime_model().get_ordered_ops()]
    kinds = [(each["layerType"].value, each["runtimePrecision"].value) for each in facts]
    return Counter(f"{kind} {precision}" for kind, precision in kinds if kind not in PLUMBING)


def share(found: Counter[str], *kinds: str) -> str:
    """26 of 26: how many of the layers of these kinds run in integers."""
    layers = Counter({name: count for name, count in found.items() if name.split()[0] in kinds})
    return f"{sum(layers[name] for name in layers if name.endswith('8'))} of {layers.total()}"


def paired(networks: Mapping[str, Any], image: np.ndarray, runs: int) -> dict[str, np.ndarray]:
    """Milliseconds [runs] of each network, which take turns."""
    requests = {name: network.create_infer_request() for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    rng = np.random.default_rng(0)
    for _ in range(WARM_UP + runs):
        for name in rng.permutation(list(requests)):
            started = time.perf_counter()
            requests[name].infer([image])
            times[name].append((time.perf_counter() - started) * 1e3)
    return {name: np.array(values[WARM_UP:]) for name, values in times.items()}


def spread(values: np.ndarray) -> str:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def agreement(network: Any, model: onnx.ModelProto, image: np.ndarray) -> float:
    """dB, the least of all outputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: image})
    computed = network([image])
    errors = [((one - computed[position]) ** 2).sum() for position, one in enumerate(expected)]
    return min(
        10 * float(np.log10((one**2).sum() / max(error, 1e-30))) for one, error in zip(expected, errors, strict=True)
    )


def rows(file: Path, runs: int, threads: list[int]) -> list[list[str]]:
    """Of one model, a row for each number of threads."""
    import onnxdfq

    done = onnxdfq.quantize(file, target="openvino", recipe="fast")
    original, ours = onnx.load(file), done.models["openvino"]
    _, shape, _ = done.report.input.rsplit(" ", 2)
    image = np.random.default_rng(0).normal(size=[*map(int, shape.split("x"))]).astype(np.float32)
    network = loaded(ours)
    found = executed(network)
    print(f"{file.stem}: {', '.join(f'{count} {name}' for name, count in found.items())}", flush=True)
    facts = [share(found, "Convolution", "Deconvolution"), share(found, "FullyConnected", "MatMul")]
    facts.append(f"{agreement(network, ours, image):.0f}")
    result = []
    for count in threads:
        networks = {"float": loaded(original, count), "again": loaded(original, count), "ours": loaded(ours, count)}
        times = paired(networks, image, runs)
        ratios = [times["float"] / times[name] for name in ("ours", "again")]
        result.append([file.stem, str(count), *map(spread, (times["float"], times["ours"], *ratios)), *facts])
    return result


def main() -> None:
    """Measure and print."""
    import openvino

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parsed = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"OpenVINO {openvino.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}")
    headings = ["model", "threads", "float, ms", "ours, ms", "speed to float", "float to itself", "int8 convolutions",
                "int8 products", "dB to ONNX Runtime"]  # fmt: skip
    table = [headings, ["---"] * len(headings)]
    for file in parsed.models:
        table += rows(file, parsed.runs, parsed.threads)
    print("\nmedian [quartiles]; speed: float time / our time, of the same round")
    print("\n".join(f"| {' | '.join(row)} |" for row in table))


if __name__ == "__main__":
    main()
