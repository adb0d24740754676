"""Run a model on ONNX Runtime, and say truthfully on what it ran."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from onnxdfq.errors import OnnxdfqError

Device = Literal["auto", "cpu", "cuda"]
ROUNDING = "WeightBiasQuantization"  # biases at scale_x * scale_W; float weights between integers at one scale
SERIALIZED_LIMIT = 2**31 - 2**20  # a message has to stay below 2 GiB; weights beyond go to a file of their own


class Session:
    """A model loaded into ONNX Runtime. ``provider`` is the execution provider that really runs it.

    as_written: float biases and weights of layers between integers stay in float, as on runtimes that do not round them
    and in files that keep this one from it, see passes/precise_biases.py.

    Raises OnnxdfqError when the runtime refuses the model, or when device is "cuda" and CUDA does not load.
    """

    def __init__(self, model: onnx.ModelProto, device: Device = "cpu", *, as_written: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # A thread that spins while it waits takes its core from whoever computes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = ["CUDAExecutionProvider"] if device != "cpu" and cuda_driver() else []
        try:
            disabled = [ROUNDING] if as_written else []
            self._session = _load(model, options, [*wanted, "CPUExecutionProvider"], disabled)
        except Exception as error:  # onnxruntime raises a class per error code, none of them with a common base
            raise OnnxdfqError(f"ONNX Runtime refuses the model: {str(error).splitlines()[0][:300]}") from error
        self.provider: str = self._session.get_providers()[0]
        if device == "cuda" and self.provider != "CUDAExecutionProvider":
            raise OnnxdfqError(
                "CUDA was asked for, but ONNX Runtime did not load it",
                "check driver and CUDA libraries, or --device cpu",
            )
        self.inputs: list[str] = [entry.name for entry in self._session.get_inputs()]
        self.outputs: list[str] = [entry.name for entry in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name."""
        return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))

    def stream(self, batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """The outputs of one batch after the other; nothing is kept."""
        for feeds in batches:
            yield self.run(feeds)


def tapped(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model that also puts out these float tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {entry.name for entry in copy.graph.output}
    for name in tensors:
        if name not in known:
            copy.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


@lru_cache(maxsize=1)
def cuda_driver() -> bool:
    """Whether this machine has an NVIDIA driver. The GPU build of ONNX Runtime lists CUDA with or without one, and
    complains on stderr when asked for it in vain."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def _load(
    model: onnx.ModelProto, options: onnxruntime.SessionOptions, providers: list[str], disabled: list[str]
) -> onnxruntime.InferenceSession:
    if model.ByteSize() < SERIALIZED_LIMIT:
        source = model.SerializeToString()
        return onnxruntime.InferenceSession(source, options, providers=providers, disabled_optimizers=disabled)
    with tempfile.TemporaryDirectory(prefix="onnxdfq-") as folder:
        path = Path(folder) / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)  # writing weights apart takes them out of the model that is written
        onnx.save(copy, path, save_as_external_data=True, location="weights")
        return onnxruntime.InferenceSession(str(path), options, providers=providers, disabled_optimizers=disabled)
