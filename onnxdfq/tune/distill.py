"""The whole quantized graph learns to answer as the float model does.

    L = T^2 KL(softmax(t / T) || softmax(q / T))          t, q: scores of the model and of the quantized graph
    L = |q - t|^2 / var t                                 where the outputs are no scores of classes

(Hinton et al. 2015), on images that are moved, flipped, enlarged and mixed by chance. Blocks that learned one by one
are near a minimum, at which many weights stand close to the border of two codes: they are put back into their cells
first, and the steps begin small, or the first ones would send thousands of them across.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from onnxdfq.images.augment import augmented
from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.tune.data_parallel import average_gradients
from onnxdfq.tune.mixtures import mixed
from onnxdfq.tune.rates import Rates, parameters_of
from onnxdfq.tune.student import Student

RATES = Rates(weights=2e-4, scales=1e-3, biases=1e-3)
WARMUP = 0.1  # of the steps
TEMPERATURE = 4.0
Answers = Callable[[Tensor], list[Tensor]]  # pixels 0..1, whole batches of the model -> outputs


@dataclass(frozen=True)
class Distillation:
    """student: answers through ``quantized``; ``original`` is the float model. classes: whether the first output holds
    scores of classes; then it alone is looked at. batch: images in a step."""

    student: Student
    quantized: Answers
    original: Answers
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
    for weights in work.student.weights.values():
        weights.settle()
    groups = parameters_of(work.student, RATES)
    learned = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.Adam(groups)
    warmup = max(round(WARMUP * iterations), 1)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / iterations)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    work.student.module.train()
    with work.student.learning(learned):
        for _ in range(iterations):
            chosen = torch.randint(len(image), (work.batch,), generator=generator).to(image.device)
            shown = mixed(augmented(image[chosen], generator, crops=True), generator)
            with torch.no_grad():
                wanted = work.original(shown)
            loss = _loss(work, work.quantized(shown), wanted)
            optimizer.zero_grad()
            loss.backward()
            average_gradients(learned, ranks)
            optimizer.step()
            schedule.step()
            on_step(float(loss.detach()))
    work.student.module.eval()


def _loss(work: Distillation, made: list[Tensor], wanted: list[Tensor]) -> Tensor:
    if work.classes:
        q, t = (torch.log_softmax(each[0].float().flatten(1) / TEMPERATURE, 1) for each in (made, wanted))
        return TEMPERATURE**2 * functional.kl_div(q, t, log_target=True, reduction="batchmean")
    pairs = [(q.float(), t.float()) for q, t in zip(made, wanted, strict=True)
             if t.is_floating_point() and q.shape == t.shape]  # fmt: skip
    return torch.stack([functional.mse_loss(q, t) / (t.var() + 1e-12) for q, t in pairs]).mean()
