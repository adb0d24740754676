"""What the quantized graph is led by: the answers of the float model, and what its blocks give on the way there.

    L = T^2 KL(softmax(t / T) || softmax(q / T)) + B mean over blocks |^x - x|^2 / var x

    t, q: scores of the model and of the quantized graph        x, ^x: what their blocks give, see blocks.py
    |q - t|^2 / var t takes the place of the first term where the outputs are no scores of classes

The first term is distillation (Hinton et al. 2015). The second is the aim of block reconstruction (BRECQ, Li et al.,
ICLR 2021) for all blocks at once, each reading what the quantized blocks before it give. One block after the other, as
there, fits the images that are shown: on images of other kinds the graph was farther from the model than before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxdfq.engine.lower import tap
from onnxdfq.images.losses import log_probabilities
from onnxdfq.images.teacher import Teacher
from onnxdfq.tune.student import Student

TEMPERATURE = 20.0
BLOCKS = 1.5  # weight of what blocks give

_Answers = tuple[tuple[Tensor, ...], dict[str, Tensor]]  # outputs, what blocks give


class Distillation:
    """student: learns what ``teacher`` answers, and what it gives at ``ends``, tensors of both graphs. classes: whether
    the first output holds scores of classes; then it alone is looked at."""

    def __init__(self, student: Student, teacher: Teacher, ends: Sequence[str], *, classes: bool) -> None:
        self._teacher, self._ends, self._classes = teacher, tuple(ends), classes
        self._original, self._quantized = tap(teacher.network, ends), tap(student.module, ends)

    def gradients(self, shown: Tensor) -> float:
        """Add the gradients for pixels 0..1 [N, C, H, W], N whole batches of the model; the loss."""
        total = 0.0
        for part in shown.split(self._teacher.size):
            with torch.no_grad():
                wanted = self._teacher.called(self._original, part)
            loss = self._loss(self._teacher.called(self._quantized, part), wanted) * (len(part) / len(shown))
            loss.backward()
            total += float(loss.detach())
        return total

    def _loss(self, made: _Answers, wanted: _Answers) -> Tensor:
        (outputs, inner), (expected, inside) = made, wanted
        if self._classes:
            # From probabilities as well: their logarithms are scores
            scores = (log_probabilities(each[0]) / TEMPERATURE for each in (outputs, expected))
            q, t = (torch.log_softmax(each, 1) for each in scores)
            loss = TEMPERATURE**2 * functional.kl_div(q, t, log_target=True, reduction="batchmean")
        else:
            pairs = zip(outputs, expected, strict=True)
            alike = [(q, t) for q, t in pairs if t.is_floating_point() and q.shape == t.shape]
            loss = torch.stack([_relative(q, t) for q, t in alike]).mean()
        if not self._ends:
            return loss
        return loss + BLOCKS * torch.stack([_relative(inner[end], inside[end]) for end in self._ends]).mean()


def _relative(made: Tensor, wanted: Tensor) -> Tensor:
    """Squared error in units of the variance."""
    wanted = wanted.float()
    return functional.mse_loss(made.float(), wanted) / (wanted.var() + 1e-12)
