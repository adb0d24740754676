"""onnxsim as a guarded first step.

It runs in a process of its own, with a time limit: on some models it crashes or grows without bound, and that must not
end the whole run. What it gives back is used only if it computes the same as the original and kept the interface.

    python -m onnxdfq.simplify MODEL.onnx SIMPLIFIED.onnx        is that process
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

TIME_LIMIT = 120  # seconds
SIZE_LIMIT = 1 << 30  # bytes; folding needs several copies
Outputs = list[np.ndarray]


def simplified(model: onnx.ModelProto, run: Callable[[onnx.ModelProto], Outputs]) -> tuple[onnx.ModelProto, str]:
    """The simplified model and an empty text; or the model as it was and the reason.

    run: computes the outputs of a model for one fixed input.
    """
    if model.ByteSize() > SIZE_LIMIT:
        return model, "the model is larger than 1 GiB"
    with tempfile.TemporaryDirectory(prefix="onnxdfq-") as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(model.SerializeToString())
        command = [sys.executable, "-m", "onnxdfq.simplify", str(before), str(after)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIME_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return model, f"it took longer than {TIME_LIMIT} s"
        if done.returncode or not after.is_file():
            return model, f"onnxsim ended with code {done.returncode}"
        result = onnx.load(after)
    if _interface(result) != _interface(model):
        return model, "it changed the inputs or outputs"
    if result.ByteSize() > 1.2 * model.ByteSize() + 2**16:  # folding a Tile can write out gigabytes
        return model, "it made the model larger"
    try:
        expected, computed = run(model), run(result)
    except Exception as error:  # onnxruntime raises a class per error code
        return model, f"the result does not run: {str(error).splitlines()[0][:120]}"
    if not all(map(_same, expected, computed)):
        return model, "the result computes something else"
    return result, ""


def _same(expected: np.ndarray, computed: np.ndarray) -> bool:
    scale = float(np.abs(expected).max(initial=0)) if expected.size else 0.0
    return expected.shape == computed.shape and np.allclose(expected, computed, rtol=1e-3, atol=1e-4 * scale + 1e-6)


def _interface(model: onnx.ModelProto) -> list[tuple[str, list[int | str]]]:
    """Names, order and dimensions of inputs and outputs."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in initializers]
    return [
        (entry.name, [size.dim_param or size.dim_value for size in entry.type.tensor_type.shape.dim])
        for entry in [*inputs, *model.graph.output]
    ]


def _child(source: str, destination: str) -> None:
    # onnxsim imports torch where it finds it, for features that are not used here: seconds and half a gigabyte.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(source), skip_fuse_bn=True)
    onnx.save(model, destination)


if __name__ == "__main__":
    _child(*sys.argv[1:])
