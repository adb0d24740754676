"""Wall time and peak memory of `onnxdfq quantize --recipe fast` beside onnxruntime's own quantizer.

    python tools/bench_quantize.py MODEL.onnx [--pairs 5] [--images 64]

Both sides are whole processes, run in turn. The peer does what its documentation recommends: quant_pre_process, then
quantize_static in QDQ format, per channel, uint8 activations, min-max, on as many random images as asked for (what the
images show makes no difference to time). Prints the ratio of each pair and the median.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEER = """
import sys
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

source, prepared, output, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
entry = onnx.load(source).graph.input[0]
shape = [size.dim_value or 1 for size in entry.type.tensor_type.shape.dim]


class Images(CalibrationDataReader):
    def __init__(self):
        rng = np.random.default_rng(0)
        self.left = iter([{entry.name: rng.normal(size=shape).astype(np.float32)} for _ in range(count)])

    def get_next(self):
        return next(self.left, None)


quant_pre_process(source, prepared)
quantize_static(prepared, output, Images(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
"""


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a process and its children, whichever is largest."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command[:4])}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=64)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = [str(Path(folder) / name) for name in ("ours.onnx", "prepared.onnx", "peer.onnx")]
        ours = [sys.executable, "-m", "onnxdfq.cli", "quantize", str(parsed.model), "--recipe", "fast", "--quiet"]
        ours += ["--target", "ort-cpu", "-o", out[0]]
        peer = [sys.executable, "-c", PEER, str(parsed.model), out[1], out[2], str(parsed.images)]
        ratios = []
        for pair in range(parsed.pairs + 1):
            (our_time, our_memory), (peer_time, peer_memory) = measured(ours), measured(peer)
            line = f"{our_time:.1f} s / {peer_time:.1f} s, {our_memory:.0f} MB / {peer_memory:.0f} MB"
            if pair == 0:
                print(f"warm-up: {line}", flush=True)
                continue
            ratios.append((our_time / peer_time, our_memory / peer_memory))
            print(f"pair {pair}: {line}: time {ratios[-1][0]:.2f}, memory {ratios[-1][1]:.2f}", flush=True)
    times, memories = zip(*ratios, strict=True)
    print(f"median: time {statistics.median(times):.2f}, memory {statistics.median(memories):.2f}")


if __name__ == "__main__":
    main()
