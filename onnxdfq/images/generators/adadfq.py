"""AdaDFQ (Qian et al., "Adaptive Data-Free Quantization", CVPR 2023).

    L_G = L_margin + L_balance + L_BNS                  t, q: logits of the model P and of its quantized copy Q
    L_balance = 0.2 CE(t - q, y) + 0.1 CE(t + q, y)     images on which the two differ, and on which they agree
    L_margin  = relu(low - H') + relu(H' - high)        H': entropy of softmax(t - q), 0 .. 1 over the batch
    L_Q = -T^2 entropy(softmax((t - q) / T))

The generator plays against Q: its images shall be such that P and Q disagree, but neither as much as they can, which
nothing can be learned from, nor hardly at all. Codes are those of GDFQ.
"""

from __future__ import annotations

from functools import cached_property
from math import log as ln

import torch
from torch import Tensor, fx

from onnxdfq.engine.lower import lower
from onnxdfq.images.generators.gdfq import LabelledDrawing
from onnxdfq.images.generators.quantized_copy import quantized_copy
from onnxdfq.images.generators.training import Drawing, TrainedSource
from onnxdfq.images.losses import cross_entropy, log_probabilities

LOW, HIGH = 0.1, 0.8
DISAGREEMENT, AGREEMENT = 0.2, 0.1
BITS = 4  # of the quantized copy, which stays as it is while images are made
TEMPERATURE = 20.0


class AdaDfq(TrainedSource):
    """See the module."""

    method = "AdaDFQ"

    @cached_property
    def _copy(self) -> fx.GraphModule:
        shapes = self.subject.into.shapes(self.teacher.size)
        copy = lower(quantized_copy(self.subject, BITS), trainable=False, input_shapes=shapes)
        return copy.to(self.teacher.device)

    def drawing(self) -> Drawing:
        """See TrainedSource."""
        return LabelledDrawing(self.subject, self.size)

    def loss(self, image: Tensor, log: Tensor, shares: Tensor, prior: Tensor) -> Tensor:
        """See TrainedSource."""
        q = self.answers(image)  # log probabilities are logits, but for a constant which all terms ignore
        return margin_loss(log, q) + balance_loss(log, q, shares) + prior

    def answers(self, image: Tensor) -> Tensor:
        """Log probabilities [N, K] of the quantized copy for pixels 0..1, with straight-through gradients."""
        fed = (self.teacher.inputs(part.contiguous()) for part in image.split(self.teacher.size))
        parts = [self._copy(*inputs)[0] for inputs in fed]
        return log_probabilities(torch.cat([scores.flatten(1) for scores in parts]))


def balance_loss(
    t: Tensor, q: Tensor, shares: Tensor, disagreement: float = DISAGREEMENT, agreement: float = AGREEMENT
) -> Tensor:
    """L_balance of logits [N, K], with classes [N] or shares of classes [N, K]."""
    differ, agree = (cross_entropy(torch.log_softmax(each, 1), shares).mean() for each in (t - q, t + q))
    return disagreement * differ + agreement * agree


def margin_loss(t: Tensor, q: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    """L_margin of logits [N, K]. H' counts from the least entropy in the batch, taken as a constant, to
    that of K equal shares."""
    entropy = difference_entropy(t - q)
    least = entropy.min().detach()
    relative = (entropy - least) / (ln(t.shape[1]) - least).clamp_min(1e-6)
    return torch.relu(low - relative).mean() + torch.relu(relative - high).mean()


def student_loss(t: Tensor, q: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """L_Q of logits [N, K]: least where t - q is the same for all classes. Published is 5 on ImageNet."""
    return -(temperature**2) * difference_entropy((t - q) / temperature).mean()


def difference_entropy(difference: Tensor) -> Tensor:
    """[N]: entropy of the softmax of a difference of logits [N, K], in nats."""
    log = torch.log_softmax(difference, 1)
    return -(log.exp() * log).sum(1)
