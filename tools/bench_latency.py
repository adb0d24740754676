"""How fast models run on ONNX Runtime: float, as onnxruntime's own quantizer makes them, and ours for ort-cpu.

    python tools/bench_latency.py MODEL.onnx [...] [--runs 100] [--threads 2 1]

All sessions of a model live in one process and take turns, each once a round, in an order that is drawn anew for every
round: what slows the machine down for a while slows all of them. Ratios are those of a round, and the median of all
rounds is printed with its quartiles. Our model takes part twice: the ratio of the two is the noise.

Waiting threads do not spin: with several sessions in one process the idle threads of one would take the cores from
another.

The peer does what its documentation recommends: quant_pre_process, then quantize_static in QDQ format, per channel,
uint8 activations, min-max. Its images are random, as time does not depend on them, and its source has been raised to an
opset that knows scales per channel.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import onnxdfq
from onnxdfq.model_file import read_model
from onnxdfq.verify.kernels import kernels

WARM_UP = 5
CALIBRATION_IMAGES = 4
Feeds = dict[str, np.ndarray]


@dataclass
class Case:
    """One model: its file, what it is fed with, and a folder for what is made of it."""

    file: Path
    folder: Path
    feeds: Feeds = field(init=False)
    ours: onnx.ModelProto = field(init=False)

    def __post_init__(self) -> None:
        done = onnxdfq.quantize(self.file, target="ort-cpu", recipe="fast")
        self.ours = done.models["ort-cpu"]
        name, shape, _ = done.report.input.rsplit(" ", 2)
        self.feeds = {name: np.random.default_rng(0).normal(size=[*map(int, shape.split("x"))]).astype(np.float32)}


class _Images(CalibrationDataReader):
    def __init__(self, feeds: Feeds) -> None:
        self.left = iter([feeds] * CALIBRATION_IMAGES)

    def get_next(self) -> Feeds | None:
        return next(self.left, None)


def _peer(case: Case) -> onnx.ModelProto:
    raised, prepared, result = (case.folder / f"{name}.onnx" for name in ("raised", "prepared", "peer"))
    onnx.save(read_model(case.file), raised)
    quant_pre_process(raised, prepared)
    quantize_static(prepared, result, _Images(case.feeds), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    return onnx.load(result)


OURS, AGAIN, PEER, FLOAT = "onnxdfq", "onnxdfq again", "onnxruntime", "float"
VARIANTS: Mapping[str, Callable[[Case], onnx.ModelProto]] = {
    FLOAT: lambda case: onnx.load(case.file),
    PEER: _peer,
    OURS: lambda case: case.ours,
    AGAIN: lambda case: case.ours,
}  # one line more measures one kind of model more
OTHERS = [name for name in VARIANTS if name not in (OURS, AGAIN)]
QUANTIZED = [name for name in VARIANTS if name not in (FLOAT, AGAIN)]


def session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """The model on the CPU, with defaults but for the threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def paired(sessions: Mapping[str, onnxruntime.InferenceSession], feeds: Feeds, runs: int) -> dict[str, np.ndarray]:
    """Milliseconds [runs] of each session, which take turns."""
    names, rng = list(sessions), np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(WARM_UP + runs):
        for name in rng.permutation(names):
            started = time.perf_counter()
            sessions[name].run(None, feeds)
            times[name].append((time.perf_counter() - started) * 1e3)
    return {name: np.array(values[WARM_UP:]) for name, values in times.items()}


def noise(ratios: np.ndarray) -> float:
    """How far from 1 a median ratio may be for no reason, seen from ratios of equal things: the distance of their
    median from 1, and the error of a median."""
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return float(abs(middle - 1) + 1.57 * (high - low) / np.sqrt(len(ratios)))


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


HEADINGS = ["model", "threads", *(f"{name}, ms" for name in (*OTHERS, OURS)), *(f"to {name}" for name in OTHERS),
            "to itself", "noise", "slower?", *(f"int8 MACs, {name}" for name in QUANTIZED)]  # fmt: skip


def measure(case: Case, runs: int, threads: list[int]) -> list[list[str]]:
    """Rows of the table: speed of ours is a ratio of times, above 1 where ours is faster."""
    models = {name: make(case) for name, make in VARIANTS.items()}
    shapes = {name: array.shape for name, array in case.feeds.items()}
    shares = []
    for name in QUANTIZED:
        found = kernels(models[name], shapes)
        shares.append("unknown" if found.share is None else f"{100 * found.share:.1f} %")
        layers = ", ".join(f"{count} {kernel}" for kernel, count in found.counts.items())
        left = f"{found.quantize} Q, {found.dequantize} DQ, {sum(found.floats.values())} float operators left"
        left += f"; {found.without_macs} layers without MACs" if found.without_macs else ""
        print(f"{case.file.stem}, {name}: {layers}; {left}; {models[name].ByteSize() / 1e3:.0f} kB", flush=True)
    rows = []
    for count in threads:
        times = paired({name: session(model, count) for name, model in models.items()}, case.feeds, runs)
        ratios = {name: times[name] / times[OURS] for name in (*OTHERS, AGAIN)}
        tolerance = noise(ratios[AGAIN])
        rows.append([
            case.file.stem, str(count), *(_spread(times[name]) for name in (*OTHERS, OURS)),
            *map(_spread, ratios.values()), f"{tolerance:.3f}",
            "no" if np.median(ratios[PEER]) >= 1 - tolerance else "YES", *shares,
        ])  # fmt: skip
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parsed = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"onnxruntime {onnxruntime.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}")
    rows = [HEADINGS, ["---"] * len(HEADINGS)]
    for file in parsed.models:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Case(file, Path(folder)), parsed.runs, parsed.threads)
    print("\nmedian [quartiles]; speed of ours: other time / our time, of the same round")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()
