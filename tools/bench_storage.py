"""What weights of few bits save on disk for ort-cpu, and what that costs in time.

    python tools/bench_storage.py MODEL.onnx [...] [--runs 100] [--threads 1]

For 8, 4 and 2 bits: bytes of the low-bit layers' weights and of the whole file, time in ratio to the 8-bit file
(paired, see bench_latency.py), and whether the outputs equal those of the same codes stored in 8 bits (--compat).
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from bench_latency import paired, session

import onnxdfq
from onnxdfq.verify.kernels import kernels
from passes.stored_weights import stored_weights

BITS = (8, 4, 2)


def weight_bytes(model: onnx.ModelProto, layers: set[str]) -> int:
    """Bytes of the integer weights of these layers."""
    return sum(each.size for each in stored_weights(gs.import_onnx(model)) if each.layer in layers)


def measure(file: Path, runs: int, threads: int) -> list[list[str]]:
    """One row for each number of bits."""
    packed, plain = {}, {}
    for bits in BITS:
        done = onnxdfq.quantize(file, target="ort-cpu", recipe="fast", bits=bits)
        packed[bits] = done.models["ort-cpu"]
        plain[bits] = onnxdfq.quantize(file, target="ort-cpu", recipe="fast", bits=bits, compat=True).models["ort-cpu"]
    plan = done.report.targets["ort-cpu"].plan  # of the fewest bits: its low layers are those of all
    low = {params.why.removeprefix("weights of ") for params in plan.tensors.values() if params.bits < 8}
    name, shape, _ = done.report.input.rsplit(" ", 2)
    feeds = {name: np.random.default_rng(0).normal(size=[*map(int, shape.split("x"))]).astype(np.float32)}
    sessions = {str(bits): session(model, threads) for bits, model in packed.items()}
    times = paired(sessions | {"8 again": session(packed[8], threads)}, feeds, runs)
    rows = []
    for bits in BITS:
        ours = sessions[str(bits)].run(None, feeds)
        same = all(map(np.array_equal, ours, session(plain[bits], threads).run(None, feeds)))
        held, whole = weight_bytes(packed[bits], low), packed[bits].ByteSize()
        other = "8 again" if bits == 8 else str(bits)
        ran = ", ".join(f"{count} {kernel}" for kernel, count in kernels(packed[bits]).counts.items())
        rows.append([
            file.stem, str(bits), f"{held:,} ({held / weight_bytes(packed[8], low):.3f})",
            f"{whole:,} ({whole / packed[8].ByteSize():.3f})", f"{np.median(times[other] / times['8']):.3f}",
            "yes" if same else "NO", ran,
        ])  # fmt: skip
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parsed = parser.parse_args()
    rows = [
        [
            "model",
            "bits",
            "bytes of low-bit layers (to int8)",
            "file (to int8)",
            "time to int8",
            "same outputs",
            "kernels",
        ]
    ]
    rows.append(["---"] * len(rows[0]))
    for file in parsed.models:
        rows += measure(file, parsed.runs, parsed.threads)
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()
