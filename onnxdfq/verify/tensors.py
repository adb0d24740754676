"""Where two models of one network part: the signal to quantization noise of every tensor that both have by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxdfq.engine.ort import Device, Session, tapped
from onnxdfq.verify.agreement import decibels

PARTED = 20.0  # dB: noise of a tenth of the signal


@dataclass(frozen=True)
class TensorNoise:
    """tensor: its name in both models. node, op: what writes it in the first. sqnr: in dB."""

    tensor: str
    node: str
    op: str
    sqnr: float


def tensor_noise(
    first: onnx.ModelProto,
    second: onnx.ModelProto,
    batches: Iterable[Mapping[str, np.ndarray]],
    device: Device = "cpu",
) -> list[TensorNoise]:
    """Of float tensors that nodes of both models write under one name and in one shape, in the order of the first.
    Nothing but sums is kept."""
    writers = {name: node for node in first.graph.node for name in node.output if name}
    written = {name for node in second.graph.node for name in node.output}
    floats = _floats(first)
    names = [name for name in writers if name in written and floats.get(name, True)]
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    one, other = (Session(tapped(model, names), device, as_written=True) for model in (first, second))
    for feeds in batches:
        expected, computed = one.run(feeds), other.run(feeds)
        for name in list(signal):
            values, others = expected[name], computed[name]
            if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.shape != others.shape:
                del signal[name]
                continue
            wide = values.astype(np.float64)
            signal[name] += float((wide**2).sum())
            noise[name] += float(((wide - others) ** 2).sum())
    return [
        TensorNoise(name, writers[name].name, writers[name].op_type, decibels(signal[name], noise[name]))
        for name in signal
    ]


def first_to_part(found: Iterable[TensorNoise], least: float = PARTED) -> TensorNoise | None:
    """The first tensor with less than ``least`` dB, None where there is none."""
    return next((each for each in found if each.sqnr < least), None)


def _floats(model: onnx.ModelProto) -> dict[str, bool]:
    """Whether a tensor is float32, by name, where inference says."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        graph = model.graph
    entries = [*graph.value_info, *graph.output]
    return {entry.name: entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for entry in entries}
