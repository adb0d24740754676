"""Losses, which some exported training graphs end in."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator


@operator("NegativeLogLikelihoodLoss", since=12, frozen=("weight",))
def negative_log_likelihood_loss(
    x: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """x [N, C, ...], target [N, ...], weight [C] -> one number, or [N, ...] without reduction."""
    return F.nll_loss(x, target.long(), weight, ignore_index=ignore_index, reduction=reduction)


@operator("SoftmaxCrossEntropyLoss", since=12, frozen=("weight",))
def softmax_cross_entropy_loss(
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    outputs: int,
) -> tuple[Tensor, ...]:
    """scores [N, C, ...], target [N, ...]; also the log-probabilities [N, C, ...] if the node lists them."""
    log_probabilities = torch.log_softmax(scores, 1)
    loss = negative_log_likelihood_loss(
        log_probabilities, target, weight, ignore_index=ignore_index, reduction=reduction
    )
    return (loss, log_probabilities)[:outputs]
