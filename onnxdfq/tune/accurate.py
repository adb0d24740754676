"""Recipe "accurate": the quantized graph learns from images that were made before, until it answers as the model does.

Weights, scales, ranges and biases learn together, see distill.py, on images that are moved, flipped, enlarged and
mixed by chance. Rounding is learned straight-through. The start is what layer-by-layer rounding gave, near a minimum,
at which many weights stand close to the border of two codes: they are put back into their cells first, and steps begin
small, or the first ones would send thousands of them across. Held-out images of several kinds choose what is kept.
"""

from __future__ import annotations

import math
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

from onnxdfq.images.augment import augmented
from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.images.source import OnStep, Subject, batch_size, shard_seed
from onnxdfq.images.teacher import Teacher
from onnxdfq.tune.blocks import find_blocks
from onnxdfq.tune.checkpoint import Checkpoints
from onnxdfq.tune.data_parallel import average_gradients
from onnxdfq.tune.distill import Distillation
from onnxdfq.tune.held_out import Agreement, HeldOut
from onnxdfq.tune.length import Length
from onnxdfq.tune.log import Log
from onnxdfq.tune.mixtures import mixed
from onnxdfq.tune.rates import Rates, parameters_of
from onnxdfq.tune.student import Student
from onnxdfq.tune.trained import Trained
from passes.placement import WEIGHTED
from passes.plan import QuantPlan

RATES = Rates(weights=7e-4, scales=1e-3, biases=1e-3)
WARMUP = 0.1  # of the steps
BATCH = 64  # images in a step
CHECKS = 4  # how often held-out images are asked
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
    ``biases``, names of initializers in it. pixels: to learn from, [N, C, H, W] 0..255, held_out: to judge by. groups:
    activations that share a scale. All processes of ``ranks`` return the same.
    """
    training = _Accurate(subject, model, plan, biases, pixels, held_out, seed, ranks, groups)
    training.iterations = ranks.agreed(length.with_each(training.try_one))
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
        seed: int,
        ranks: Ranks,
        groups: Sequence[Collection[str]],
    ) -> None:
        self.iterations, self.ranks = 1, ranks
        self.teacher = Teacher(subject, {}, size=min(batch_size(subject.into), len(pixels)))
        self.device, size = self.teacher.device, self.teacher.size
        self.batch = -(-max(BATCH // ranks.count, 1) // size) * size
        self.student = Student(model, plan, biases, subject.into.shapes(size), self.device, groups)
        self.teacher.mode.prepare(self.student.module)
        self.student.module.eval()
        self.image = (torch.from_numpy(pixels).float() / 255).to(self.device)
        graph = gs.import_onnx(subject.model)
        layers = {each.name for each in graph.nodes if each.op in WEIGHTED and each.inputs[1].name in plan.tensors}
        self.blocks = find_blocks(graph, layers)
        answers = {tensor.name for tensor in graph.outputs}
        ends = [block.end for block in self.blocks if block.end not in answers]
        self.distillation = Distillation(self.student, self.teacher, ends, classes=bool(subject.guides.classes))
        self.held_out = HeldOut(self.teacher, held_out, classes=bool(subject.guides.classes))
        self.random = torch.Generator().manual_seed(shard_seed(seed, ranks.rank))
        self.start = self.last = self.best = self._agreement()
        for weights in self.student.weights.values():
            weights.settle()
        groups_of = parameters_of(self.student, RATES)
        self.learned = [parameter for group in groups_of for parameter in group["params"]]
        self.optimizer = torch.optim.Adam(groups_of)
        self.rates = [group["lr"] for group in groups_of]
        self.best_state = _copy(self.student.module.state_dict())
        self.done, self.failed = 0, ""

    def try_one(self) -> None:
        """A step from which nothing is learned."""
        random = self.random.get_state()
        self._step()
        self.random.set_state(random)
        self.student.module.load_state_dict(self.best_state)
        self.optimizer.state.clear()

    def run(self, log: Log, checkpoints: Checkpoints, on_step: OnStep) -> Trained:
        state = self.ranks.agreed(checkpoints.load() if self.ranks.rank == 0 else None)
        if state:
            self._restore(state)
        log.begin(recipe="accurate", blocks=len(self.blocks), iterations=self.iterations, images=len(self.image),
                  resumed=self.done)  # fmt: skip
        log.write(iteration=self.done, top1=self.last.top1, kl=self.last.kl)
        began, between = time.perf_counter(), max(-(-self.iterations // CHECKS), 1)
        while self.done < self.iterations and not self.failed:
            loss = self._step()
            self.done += 1
            on_step(self.done, self.iterations, loss)
            if self.done % LOGGED == 0:
                log.write(iteration=self.done, seconds=round(time.perf_counter() - began, 1), loss=loss)
            if self.done % between == 0 or self.done == self.iterations:
                self._check()
                log.write(iteration=self.done, top1=self.last.top1, kl=self.last.kl)
                self._keep(checkpoints)
        if self.ranks.rank == 0:
            log.plot()
        return self._trained()

    def _step(self) -> float:
        """One step of all that learns; the loss."""
        chosen = torch.randint(len(self.image), (self.batch,), generator=self.random).to(self.device)
        shown = mixed(augmented(self.image[chosen], self.random, crops=True), self.random)
        share = min(1.0, (self.done + 1) / max(WARMUP * self.iterations, 1))
        share *= (1 + math.cos(math.pi * self.done / self.iterations)) / 2
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        with self.student.learning(self.learned):
            loss = self.distillation.gradients(shown)
            average_gradients(self.learned, self.ranks)
            self.optimizer.step()
        return loss

    def _agreement(self) -> Agreement:
        found = self.held_out.agreement(lambda image: self.teacher.outputs(image, self.student.module)[0])
        return self.ranks.agreed(found)

    def _check(self) -> None:
        self.last = self._agreement()
        if not isfinite(self.last.kl):
            self.failed = f"scores were no numbers after {self.done} iterations"
        elif self.last.kl <= self.best.kl:
            self.best, self.best_state = self.last, _copy(self.student.module.state_dict())

    def _trained(self) -> Trained:
        about = (
            f"{len(self.blocks)} blocks and the whole learned for {self.done} iterations on {len(self.image)} images, "
            f"on {self.device.type}; KL on held-out images {self.start.kl:.3g}, then {self.best.kl:.3g}"
        )
        failed = ""  # what was reached is of use, even if it all broke down afterwards
        if self.best is self.start:
            failed = self.failed or "nothing came nearer to the model on held-out images"
        self.student.module.load_state_dict(self.best_state)
        return Trained(*self.student.learned(), self.done, self.start, self.best, failed, about)

    # -- to go on where it was killed

    def _keep(self, checkpoints: Checkpoints) -> None:
        random = self.ranks.gathered(self.random.get_state())
        if self.ranks.rank == 0:
            checkpoints.save({
                "done": self.done, "failed": self.failed, "random": random, "last": asdict(self.last),
                "best": asdict(self.best), "best_state": self.best_state, "state": self.student.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            })  # fmt: skip

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.done, self.failed, self.best_state = state["done"], state["failed"], state["best_state"]
        self.last, kept = Agreement(**state["last"]), Agreement(**state["best"])
        self.best = self.start if kept == self.start else kept
        self.random.set_state(state["random"][self.ranks.rank])
        self.optimizer.load_state_dict(state["optimizer"])
        self.student.module.load_state_dict(state["state"])


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
