"""The whole quantized graph learns to answer as the float model does, and to get there by the same way.

    L = T^2 KL(softmax(t / T) || softmax(q / T)) + F mean over blocks |^x - x|^2 / var x

    t, q: scores of the model and of the quantized graph        x, ^x: what their blocks give, see blocks.py
    |q - t|^2 / var t takes the place of the first term where the outputs are no scores of classes

(Hinton et al. 2015; the second term is the aim of reconstruct.py for all blocks at once, each reading what quantized
blocks before it give), on images that are moved, flipped, enlarged and mixed by chance. Blocks that learned one by one
are near a minimum, at which many weights stand close to the border of two codes: they are put back into their cells
first, and the steps begin small, or the first ones would send thousands of them across.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from onnxdfq.engine.lower import tap
from onnxdfq.images.augment import augmented
from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.images.teacher import Teacher
from onnxdfq.tune.data_parallel import average_gradients
from onnxdfq.tune.mixtures import mixed
from onnxdfq.tune.rates import Rates, parameters_of
from onnxdfq.tune.student import Student

RATES = Rates(weights=7e-4, scales=1e-3, biases=1e-3)
WARMUP = 0.1  # of the steps
TEMPERATURE = 20.0
BLOCKS = 1.5  # weight of what blocks give


@dataclass(frozen=True)
class Distillation:
    """student: learns what ``teacher`` answers, and gives at ``ends``, tensors of both graphs. classes: whether the
    first output holds scores of classes; then it alone is looked at. batch: images in a step."""

    student: Student
    teacher: Teacher
    ends: Sequence[str]
    classes: bool
    batch: int


def distill(
    work: Distillation,
    image: Tensor,
    iterations: int,
    generator: torch.Generator,
    *,
    ranks: Ranks = ALONE,
    on_step: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train ``work.student`` on pixels 0..1 [N, C, H, W]. Leaves all parameters without gradients."""
    teacher, student = work.teacher, work.student
    for weights in student.weights.values():
        weights.settle()
    groups = parameters_of(student, RATES)
    learned = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.Adam(groups)
    warmup = max(round(WARMUP * iterations), 1)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / iterations)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    original, quantized = tap(teacher.network, work.ends), tap(student.module, work.ends)
    batch = -(-work.batch // teacher.size) * teacher.size  # a model may insist on its own
    student.module.train()
    with student.learning(learned):
        for _ in range(iterations):
            chosen = torch.randint(len(image), (batch,), generator=generator).to(image.device)
            shown = mixed(augmented(image[chosen], generator, crops=True), generator)
            optimizer.zero_grad()
            total = 0.0
            for part in shown.split(teacher.size):
                with torch.no_grad():
                    wanted = teacher.called(original, part)
                loss = _loss(work, teacher.called(quantized, part), wanted) * (len(part) / batch)
                loss.backward()
                total += float(loss.detach())
            average_gradients(learned, ranks)
            optimizer.step()
            schedule.step()
            on_step(total)
    student.module.eval()


_Answers = tuple[tuple[Tensor, ...], dict[str, Tensor]]  # outputs, what blocks give


def _loss(work: Distillation, made: _Answers, wanted: _Answers) -> Tensor:
    (outputs, inner), (expected, inside) = made, wanted
    if work.classes:
        q, t = (torch.log_softmax(each[0].float().flatten(1) / TEMPERATURE, 1) for each in (outputs, expected))
        loss = TEMPERATURE**2 * functional.kl_div(q, t, log_target=True, reduction="batchmean")
    else:
        pairs = [(q, t) for q, t in zip(outputs, expected, strict=True) if t.is_floating_point() and q.shape == t.shape]
        loss = torch.stack([_relative(q, t) for q, t in pairs]).mean()
    if not work.ends:
        return loss
    return loss + BLOCKS * torch.stack([_relative(inner[end], inside[end]) for end in work.ends]).mean()


def _relative(made: Tensor, wanted: Tensor) -> Tensor:
    """Squared error in units of the variance."""
    wanted = wanted.float()
    return functional.mse_loss(made.float(), wanted) / (wanted.var() + 1e-12)
