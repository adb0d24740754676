"""What came out of a training."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnxdfq.tune.held_out import Agreement
from passes.plan import QuantPlan


@dataclass(frozen=True)
class Trained:
    """model, plan: the float model with weights on their grids, and how it is quantized; inserting the plan gives the
    graph that was trained. agreement_before, agreement_after: with the model on held-out images. failed: why training
    was of no use, empty where it was; model and plan are those of the start then. about: for the report."""

    model: onnx.ModelProto
    plan: QuantPlan
    iterations_done: int
    agreement_before: Agreement
    agreement_after: Agreement
    failed: str
    about: str
