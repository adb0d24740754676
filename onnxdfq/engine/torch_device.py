"""Where torch works."""

from __future__ import annotations

import torch

from onnxdfq.errors import OnnxdfqError


def torch_device(wanted: str) -> str:
    """The device for gradients: CUDA where torch has it, unless the user wants the CPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise OnnxdfqError("CUDA was asked for, but torch does not find it", "install a CUDA build, or --device cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
