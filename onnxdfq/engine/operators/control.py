"""Control flow: one of two graphs, chosen at call time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from onnxdfq.engine.operators.registry import operator

Branch = Callable[..., tuple[Tensor, ...]]


@operator("If", since=1)
def if_else(
    condition: Tensor,
    then_values: tuple[Tensor, ...],
    else_values: tuple[Tensor, ...],
    *,
    then_branch: Branch,
    else_branch: Branch,
    outputs: int,
) -> tuple[Tensor, ...]:
    """The outputs of one branch. ``then_values`` and ``else_values`` are what the branches take from around them; in
    ONNX they see it without being given it. A condition that is known when the model is lowered never gets here."""
    return then_branch(*then_values) if bool(condition) else else_branch(*else_values)
