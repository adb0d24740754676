"""Quantize ONNX models without data: `onnxdfq quantize model.onnx`, or onnxdfq.quantize("model.onnx")."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["DynamicSession", "quantize", "quantize_dynamic", "synth"]
_HOMES = {"DynamicSession": "onnxdfq.dynamic.session", "quantize_dynamic": "onnxdfq.dynamic.api"}  # others: api


def __getattr__(name: str) -> Any:
    # Imported on first use: `import onnxdfq.engine` and the simplifier's process need none of it.
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "onnxdfq.api")), name)
    raise AttributeError(f"module onnxdfq has no attribute {name}")
