"""Block by block, from the first to the last: each quantized block learns to give what the float one gives.

    x   what the block reads in the float model           y = block(x)
    ^x  what it reads in the graph quantized and learned so far

    least over weights, scales, ranges and biases of the block: |^block(mix of ^x and x) - y|^2 / var y

after BRECQ (Li et al., ICLR 2021), with the drops of QDrop (Wei et al., ICLR 2022): by chance a channel of an image is
read as it is in the float model, in front of the block and within it. Rounding is learned straight-through, from
weights that stand in the cells of the codes they have, and not by the soft rounding of AdaRound: published schedules of
that take 20,000 steps for each block, here there are hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from onnxdfq.engine.lower import tap
from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.images.teacher import Teacher
from onnxdfq.tune.blocks import Block
from onnxdfq.tune.data_parallel import average_gradients
from onnxdfq.tune.rates import Rates, parameters_of
from onnxdfq.tune.segment import between
from onnxdfq.tune.student import Student

DROPPED = 0.5
RATES = Rates(weights=1.4e-3, scales=1e-3, biases=1e-3)
MEMORY = 2**28  # bytes that one tensor of all images may take; three are alive


@dataclass(frozen=True)
class Reconstruction:
    """student: learns from what ``teacher`` has between its blocks. batch: images in a step."""

    student: Student
    teacher: Teacher
    batch: int


def reconstruct(
    work: Reconstruction,
    blocks: Sequence[Block],
    image: Tensor,
    iterations: int,
    generator: torch.Generator,
    *,
    first: int = 0,
    ranks: Ranks = ALONE,
    on_block: Callable[[int], None] = lambda number: None,
    on_step: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train the blocks of ``work.student``, in order.

    image: pixels 0..1 [N, C, H, W], N whole batches of the teacher. first: the block to begin with, where those before
    it have learned already. on_block: hears the number of each that is done. Leaves all parameters without gradients.
    """
    if not blocks:
        return
    image = image[: _affordable(work, blocks, image)]
    x = _at_start(work, work.teacher.network, blocks[0].start, image)
    x_quantized = _at_start(work, work.student.module, blocks[0].start, image)
    for number, block in enumerate(blocks):
        original = between(work.teacher.network, block.start, block.end)
        quantized = between(work.student.module, block.start, block.end)
        y = _run(work, original, x)
        if number >= first:
            if work.student.coarse(quantized):
                _Training(work, quantized, x, x_quantized, y, iterations, generator, ranks).run(on_step)
            on_block(number)
        x, x_quantized = y, _run(work, quantized, x_quantized)


class _Training:
    """That of one block."""

    def __init__(
        self,
        work: Reconstruction,
        block: fx.GraphModule,
        x: Tensor,
        x_quantized: Tensor,
        y: Tensor,
        iterations: int,
        generator: torch.Generator,
        ranks: Ranks,
    ) -> None:
        self.work, self.block, self.x, self.x_quantized, self.y = work, block, x, x_quantized, y
        self.iterations, self.generator, self.ranks = iterations, generator, ranks
        self.variance = float(y.float().var()) + 1e-12

    def run(self, on_step: Callable[[float], None]) -> None:
        groups = parameters_of(self.work.student, RATES, self.block)
        learned = [parameter for group in groups for parameter in group["params"]]
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        self.block.train()
        with self.work.student.learning(learned, DROPPED):
            for _ in range(self.iterations):
                optimizer.zero_grad()
                loss = self._step()
                average_gradients(learned, self.ranks)
                optimizer.step()
                schedule.step()
                on_step(loss)
        self.block.eval()

    def _step(self) -> float:
        """Gradients of one batch, in as many parts as the model takes at once; the loss."""
        work = self.work
        chosen = torch.randint(len(self.x), (work.batch,), generator=self.generator).to(self.x.device)
        total = 0.0
        for part in chosen.split(work.teacher.size):
            read, wanted = self.x_quantized[part], self.y[part]
            shape = [length if axis < 2 else 1 for axis, length in enumerate(read.shape)]
            as_float = torch.bernoulli(torch.full(shape, DROPPED), generator=self.generator).to(read.device)
            with work.teacher.mode.context(read.device):
                made = self.block(torch.lerp(read, self.x[part], as_float))
            loss = functional.mse_loss(made.float(), wanted) / self.variance * (len(part) / work.batch)
            loss.backward()
            total += float(loss.detach())
        return total


@torch.no_grad()
def _at_start(work: Reconstruction, module: fx.GraphModule, start: str, image: Tensor) -> Tensor:
    tapped, parts = tap(module, [start]), image.split(work.teacher.size)
    return torch.cat([_called(work, tapped, work.teacher.inputs(part))[1][start].float() for part in parts])


@torch.no_grad()
def _run(work: Reconstruction, block: fx.GraphModule, x: Tensor) -> Tensor:
    return torch.cat([_called(work, block, [part]).float() for part in x.split(work.teacher.size)])


def _called(work: Reconstruction, module: fx.GraphModule, inputs: list[Tensor]) -> Any:
    with work.teacher.mode.context(work.teacher.device):
        return module(*map(work.teacher.mode.arrange, inputs))


@torch.no_grad()
def _affordable(work: Reconstruction, blocks: Sequence[Block], image: Tensor) -> int:
    """How many images the largest tensor between blocks has memory for, whole batches."""
    size, ends = work.teacher.size, [block.end for block in blocks]
    _, found = _called(work, tap(work.teacher.network, ends), work.teacher.inputs(image[:size]))
    largest = max(4 * found[end].numel() for end in ends)
    return min(len(image), max(MEMORY // largest, 1) * size)
