"""The torch engine behind the standard's own backend interface, so that onnx's conformance tests can run it.

    outputs = TorchBackend.prepare(model).run([image])     # numpy in, numpy out

See ``onnx.backend.base``. Devices are "CPU" and "CUDA", with an index if wanted: "CUDA:1".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx.backend.base import Backend, BackendRep

from onnxdfq.engine.lower import lower
from onnxdfq.engine.operators.values import from_numpy, outside_dtype, to_numpy


class TorchBackend(Backend):
    """Runs a model once per call of ``run``, without gradients."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> TorchModel:
        """Lower the model. Raises UnsupportedOperator for what cannot run."""
        return TorchModel(model, torch.device(device.lower()))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.startswith("CPU") or (device.startswith("CUDA") and torch.cuda.is_available())


class TorchModel(BackendRep):
    """A lowered model with the element types of its interface."""

    def __init__(self, model: onnx.ModelProto, device: torch.device) -> None:
        self.device = device
        self.module = lower(model, trainable=False).to(device)
        held = {initializer.name for initializer in model.graph.initializer}
        self.input_types = [e.type.tensor_type.elem_type for e in model.graph.input if e.name not in held]
        self.output_types = [e.type.tensor_type.elem_type for e in model.graph.output]

    def run(self, inputs: Sequence[np.ndarray], **_: Any) -> tuple[np.ndarray, ...]:
        """All outputs for the inputs in the model's order."""
        tensors = [
            from_numpy(np.asarray(array), kind).to(self.device, outside_dtype(kind))
            for array, kind in zip(inputs, self.input_types, strict=True)
        ]
        with torch.no_grad():
            outputs = self.module(*tensors)
        return tuple(to_numpy(tensor, kind) for tensor, kind in zip(outputs, self.output_types, strict=True))
