"""What activations really reach, and how much of them lies beyond the codes that they get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxdfq.engine.ort import Device, Session, tapped


@dataclass(frozen=True)
class Clipping:
    """low, high: what the images reach. codes_low, codes_high: what the codes reach. beyond: percent of the numbers
    that lie outside of these."""

    tensor: str
    low: float
    high: float
    codes_low: float
    codes_high: float
    beyond: float


def clipping(
    model: onnx.ModelProto,
    reaches: Mapping[str, tuple[float, float]],
    batches: Iterable[Mapping[str, np.ndarray]],
    device: Device = "cpu",
) -> list[Clipping]:
    """Of tensors of the float ``model``, by what their codes reach. Inputs of the model are read from the batches."""
    inputs = {entry.name for entry in model.graph.input}
    session = Session(tapped(model, [name for name in reaches if name not in inputs]), device)
    low, high = dict.fromkeys(reaches, np.inf), dict.fromkeys(reaches, -np.inf)
    outside, count = dict.fromkeys(reaches, 0), dict.fromkeys(reaches, 0)
    for feeds in batches:
        found = session.run(feeds)
        for name, (least, most) in reaches.items():
            values = found[name] if name in found else feeds[name]
            low[name], high[name] = min(low[name], float(values.min())), max(high[name], float(values.max()))
            slack = 1e-6 * (most - least)
            outside[name] += int(((values < least - slack) | (values > most + slack)).sum())
            count[name] += values.size
    return [
        Clipping(name, low[name], high[name], least, most, 100 * outside[name] / max(count[name], 1))
        for name, (least, most) in reaches.items()
        if count[name]
    ]
