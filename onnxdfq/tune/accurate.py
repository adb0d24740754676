"""Blocks reconstructed one by one, then the whole graph distilled: what the quantized graph learns from images that do
not change while it does. Of what was reached on the way, held-out images choose what is kept."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from torch import Tensor

from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.images.source import OnStep, Subject, batch_size, shard_seed
from onnxdfq.images.teacher import Teacher
from onnxdfq.tune.blocks import find_blocks
from onnxdfq.tune.checkpoint import Checkpoints
from onnxdfq.tune.distill import Distillation, distill
from onnxdfq.tune.held_out import Agreement, HeldOut
from onnxdfq.tune.length import Length
from onnxdfq.tune.log import Log
from onnxdfq.tune.reconstruct import Reconstruction, reconstruct
from onnxdfq.tune.student import Student
from onnxdfq.tune.trained import Trained
from passes.placement import WEIGHTED
from passes.plan import QuantPlan

BATCH_OF_BLOCK, BATCH_OF_GRAPH = 32, 64  # images in a step
SHARE_OF_GRAPH = 1  # steps of distillation for each step of a block
LOGGED = 10  # steps between two lines of the log


def tune(
    subject: Subject,
    model: onnx.ModelProto,
    plan: QuantPlan,
    biases: frozenset[str],
    pixels: np.ndarray,
    held_out: np.ndarray,
    length: Length,
    seed: int,
    log: Log,
    checkpoints: Checkpoints,
    ranks: Ranks = ALONE,
    on_step: OnStep = lambda done, total, loss: None,
    *,
    groups: Sequence[Collection[str]] = (),
) -> Trained:
    """Train the graph that ``plan`` makes of ``model``.

    subject: the float model, BatchNormalization folded. model: the same with values to begin at, see rounded.py, and
    ``biases``, names of initializers in it. pixels: to learn from, [N, C, H, W] 0..255, held_out: to judge by.
    length: iterations of each block; the whole graph has as many, of twice as many images. groups:
    activations that share a scale. All processes of ``ranks`` return the same.
    """
    training = _Accurate(subject, model, plan, biases, pixels, held_out, ranks, groups)
    devices = [training.device] if training.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        training.iterations = ranks.agreed(length.with_each(training.try_one))
        torch.manual_seed(shard_seed(seed, ranks.rank))
        return training.run(log if ranks.rank == 0 else Log(None), checkpoints, on_step)


class _Accurate:
    def __init__(
        self,
        subject: Subject,
        model: onnx.ModelProto,
        plan: QuantPlan,
        biases: frozenset[str],
        pixels: np.ndarray,
        held_out: np.ndarray,
        ranks: Ranks,
        groups: Sequence[Collection[str]],
    ) -> None:
        self.iterations, self.ranks = 0, ranks
        self.teacher = Teacher(subject, {}, size=min(batch_size(subject.into), len(pixels)))
        self.device, size = self.teacher.device, self.teacher.size
        self.student = Student(model, plan, biases, subject.into.shapes(size), self.device, groups)
        self.teacher.mode.prepare(self.student.module)
        self.student.module.eval()
        whole = len(pixels) // size * size
        self.image = (torch.from_numpy(pixels[:whole]).float() / 255).to(self.device)
        graph = gs.import_onnx(subject.model)
        layers = {each.name for each in graph.nodes if each.op in WEIGHTED and each.inputs[1].name in plan.tensors}
        self.blocks = find_blocks(graph, layers)
        self.classes = bool(subject.guides.classes)
        self.held_out = HeldOut(self.teacher, held_out, classes=self.classes)
        self.generator = torch.default_generator
        self.start = self.best = self._agreement()
        self.best_state = _copy(self.student.module.state_dict())
        self.done = 0  # blocks, then one more when they have been looked at, and one for the whole
        self.taken = 0  # steps
        self.reached: list[tuple[str, Agreement]] = []
        self.failed = ""

    def try_one(self) -> None:
        """What an iteration costs all in all: one of every block, which is about half of one of the whole, for that has
        twice the images, and those of the whole. Nothing is learned."""
        distill(self._whole(), self.image, SHARE_OF_GRAPH + 1, self.generator, ranks=self.ranks)
        self.student.module.load_state_dict(self.best_state)

    def _whole(self) -> Distillation:
        batch = max(BATCH_OF_GRAPH // self.ranks.count, 1)
        ends = [block.end for block in self.blocks[:-1]]  # what the last one gives is the answer
        return Distillation(self.student, self.teacher, ends, self.classes, batch)

    def run(self, log: Log, checkpoints: Checkpoints, on_step: OnStep) -> Trained:
        state = self.ranks.agreed(checkpoints.load() if self.ranks.rank == 0 else None)
        if state:
            self._restore(state)
        of_graph = SHARE_OF_GRAPH * self.iterations
        total, began = len(self.blocks) * self.iterations + of_graph, time.perf_counter()
        log.begin(recipe="accurate", blocks=len(self.blocks), iterations=self.iterations, distillation=of_graph,
                  images=len(self.image), resumed=self.taken)  # fmt: skip
        log.write(iteration=self.taken, **asdict(self.start))

        def step(loss: float) -> None:
            self.taken += 1
            on_step(self.taken, total, loss)
            if self.taken % LOGGED == 0:
                log.write(iteration=self.taken, seconds=round(time.perf_counter() - began, 1), loss=loss)

        def block_done(number: int) -> None:
            self.done, self.taken = number + 1, (number + 1) * self.iterations
            self._keep(checkpoints)

        def stage_done(about: str) -> None:
            self._check(about)
            self.done += 1
            log.write(iteration=self.taken, **asdict(self.reached[-1][1]))
            self._keep(checkpoints)

        if self.done <= len(self.blocks):
            blocks = Reconstruction(self.student, self.teacher, max(BATCH_OF_BLOCK // self.ranks.count, 1))
            reconstruct(blocks, self.blocks, self.image, self.iterations, self.generator, first=self.done,
                        ranks=self.ranks, on_block=block_done, on_step=step)  # fmt: skip
            self.done = len(self.blocks)
            stage_done(f"{len(self.blocks)} blocks reconstructed in {self.iterations} steps each")
        if self.done == len(self.blocks) + 1 and not self.failed:
            self.student.module.load_state_dict(self.best_state)  # that of the start, if blocks did harm
            distill(self._whole(), self.image, of_graph, self.generator, ranks=self.ranks, on_step=step)
            stage_done(f"the whole distilled in {of_graph}")
        if self.ranks.rank == 0:
            log.plot()
        return self._trained()

    def _answers(self, image: Tensor) -> list[Tensor]:
        """Outputs of the quantized graph for pixels 0..1."""
        return self.teacher.outputs(image, self.student.module)

    def _agreement(self) -> Agreement:
        return self.ranks.agreed(self.held_out.agreement(lambda image: self._answers(image)[0]))

    def _check(self, about: str) -> None:
        found = self._agreement()
        self.reached.append((about, found))
        if not isfinite(found.kl):
            self.failed = f"scores were no numbers after it had {about}"
        elif found.kl <= self.best.kl:
            self.best, self.best_state = found, _copy(self.student.module.state_dict())

    def _trained(self) -> Trained:
        steps = ", ".join(f"{about} (held-out KL {found.kl:.3g})" for about, found in self.reached)
        about = f"{steps}, from {self.start.kl:.3g}; on {len(self.image)} images, on {self.device.type}"
        failed = ""  # what blocks have learned is of use, even if it all broke down afterwards
        if self.best is self.start:
            failed = self.failed or "nothing came nearer to the model on held-out images"
        self.student.module.load_state_dict(self.best_state)
        return Trained(*self.student.learned(), self.taken, self.start, self.best, failed, about)

    # -- to go on where it was killed

    def _keep(self, checkpoints: Checkpoints) -> None:
        random = self.ranks.gathered(self.generator.get_state())
        if self.ranks.rank == 0:
            checkpoints.save({
                "done": self.done, "taken": self.taken, "failed": self.failed, "random": random,
                "reached": [(about, asdict(found)) for about, found in self.reached], "best": asdict(self.best),
                "best_state": self.best_state, "state": self.student.module.state_dict(),
            })  # fmt: skip

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.done, self.taken, self.failed = state["done"], state["taken"], state["failed"]
        self.reached = [(about, Agreement(**found)) for about, found in state["reached"]]
        kept = Agreement(**state["best"])
        self.best = self.start if kept == self.start else kept
        self.best_state = state["best_state"]
        self.generator.set_state(state["random"][self.ranks.rank])
        self.student.module.load_state_dict(state["state"])


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
