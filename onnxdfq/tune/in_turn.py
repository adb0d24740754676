"""A generator and the quantized graph, trained in turn (GDFQ, Qimera, AdaDFQ).

    images = G(codes)          a step of G, which lowers L_G
    images, once more          a step of Q, which lowers L_Q: from the end of the warm-up on

What the methods differ in is in published.py. Both steps are taken with images of the same batch. The quantized graph
is the student of observed.py; its biases, which hold the shifts of folded normalizations, are trained too, undecayed.
"""

from __future__ import annotations

import copy
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

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.generators.training import LEAST_BATCH
from onnxdfq.images.losses import log_probabilities
from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.images.source import OnStep, Subject, shard_seed
from onnxdfq.images.sources import KINDS
from onnxdfq.images.teacher import Teacher
from onnxdfq.recipes import PER_EPOCH
from onnxdfq.tune.checkpoint import Checkpoints
from onnxdfq.tune.data_parallel import average, average_gradients
from onnxdfq.tune.held_out import Agreement, HeldOut
from onnxdfq.tune.length import Length
from onnxdfq.tune.log import Log
from onnxdfq.tune.observed import ObservedStudent
from onnxdfq.tune.published import (
    EPOCHS,
    WARMUP_SHARE,
    Method,
    Settings,
    drawing,
    generator_loss,
    settings_for,
    statistics_loss,
    student_loss,
)
from onnxdfq.tune.trained import Trained
from passes.placement import WEIGHTED, weight_axis
from passes.plan import QuantPlan

LEAST_WARMUP = 10  # iterations: a mean of fewer batches says little about ranges
SHORT = 1000  # iterations: what a time budget is taken for until it is measured
CHECKS = 20  # how often the held-out images are looked at, and the state is kept
DECAY, MOMENTUM, BETAS, DROP = 1e-4, 0.9, (0.5, 0.999), 0.1
PATIENCE = 0.5  # of the schedule: what has never come nearer to the model than the start will not any more


def train(
    subject: Subject,
    student_model: onnx.ModelProto,
    plan: QuantPlan,
    gains: Mapping[str, np.ndarray],
    held_out: np.ndarray,
    method: Method,
    length: Length,
    seed: int,
    log: Log,
    checkpoints: Checkpoints,
    ranks: Ranks = ALONE,
    on_step: OnStep = lambda done, total, loss: None,
    *,
    groups: Sequence[Collection[str]] = (),
    settings: Settings | None = None,
) -> Trained:
    """Train the graph that ``plan`` makes of ``student_model``, for the classes of ``subject``.

    student_model: in float, BatchNormalization folded; ``gains`` are what folding multiplied into its weights, by the
    tensor that a layer writes, each [C]. held_out: pixels [N, C, H, W] that judge, and choose what is returned. groups:
    activations that share a scale. settings: instead of the published ones. All processes of ``ranks`` return the same.

    Raises OnnxdfqError for a model without classes, or one that the torch engine has no gradients of.
    """
    lacks = KINDS[method].lacks(subject)
    if lacks:
        raise OnnxdfqError(f"no training with {method}: {lacks}", "choose --recipe accurate")
    chosen = settings or settings_for(method, subject.guides.classes, length.iterations or SHORT)
    training = _InTurn(subject, student_model, plan, gains, held_out, chosen, seed, ranks, groups)
    training.iterations = ranks.agreed(length.with_each(training.try_one))
    return training.run(log, checkpoints, on_step)


class _InTurn:
    def __init__(
        self,
        subject: Subject,
        model: onnx.ModelProto,
        plan: QuantPlan,
        gains: Mapping[str, np.ndarray],
        held_out: np.ndarray,
        settings: Settings,
        seed: int,
        ranks: Ranks,
        groups: Sequence[Collection[str]],
    ) -> None:
        self.settings, self.iterations, self.ranks, self.groups = settings, 1, ranks, groups
        least = subject.into.batch or 1
        own = max(-(-settings.batch // ranks.count), min(settings.batch, LEAST_BATCH))
        self.batch = least * -(-own // least)  # of this process
        self.teacher = Teacher(subject, size=self.batch)
        self.device = self.teacher.device
        nodes = gs.import_onnx(model).nodes
        layers = [node for node in nodes if node.op in WEIGHTED and node.inputs[1].name in plan.tensors]
        biases = frozenset(node.inputs[2].name for node in layers if len(node.inputs) > 2)
        shapes = subject.into.shapes(self.teacher.size)
        self.student = ObservedStudent(model, plan, biases, shapes, self.device)
        _unfold(self.student, layers, gains)
        self.teacher.mode.prepare(self.student.module)
        with torch.random.fork_rng(devices=[]):  # a module's first weights have no other source of random numbers
            torch.manual_seed(seed)
            self.drawing = drawing(settings, subject)
        self.drawing.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.random = torch.Generator().manual_seed(shard_seed(seed, ranks.rank))
        weights = [each.values for each in self.student.weights.values()]
        shifts = list(self.student.biases.values())
        self.learned = [each.requires_grad_() for each in (*weights, *shifts)]
        self.drawn = list(self.drawing.parameters())
        parts: list[dict[str, Any]] = [{"params": weights, "weight_decay": DECAY}, {"params": shifts}]
        self.of_student = torch.optim.SGD(
            parts, lr=settings.rate_student, momentum=MOMENTUM, nesterov=True
        )  # fmt: skip
        self.of_generator = torch.optim.Adam(self.drawn, lr=settings.rate_generator, betas=BETAS)
        self.held_out = HeldOut(self.teacher, held_out)
        self.done, self.failed = 0, ""
        self.start = self.last = self._agreement()
        self.best, self.best_state = self.start, _copy(self.student.module.state_dict())

    # -- the schedule, in iterations

    def _at(self, epoch: int) -> int:
        return round(self.iterations * epoch / EPOCHS)

    def _begin(self, epochs: int) -> int:
        """The end of something that the schedule begins with. What it needs is not a share but a number of iterations:
        ranges, or gradients, of images by a generator that has not learned yet do harm."""
        wanted = min(epochs * PER_EPOCH, self.iterations // WARMUP_SHARE)
        return max(self._at(epochs), wanted, LEAST_WARMUP) if epochs else 0

    def _rate(self, published: float) -> float:
        return published * DROP ** sum(self.done >= self._at(epoch) for epoch in self.settings.milestones)

    # -- the loop

    def try_one(self) -> None:
        """An iteration from which nothing is learned."""
        before = copy.deepcopy({name: each.state_dict() for name, each in self._parts().items()})
        random = self.random.get_state()
        self.done = LEAST_WARMUP  # that both learn
        self._iteration()
        self.done = 0
        self.random.set_state(random)
        for name, each in self._parts().items():
            each.load_state_dict(before[name])

    def run(self, log: Log, checkpoints: Checkpoints, on_step: OnStep) -> Trained:
        log = log if self.ranks.rank == 0 else Log(None)
        state = self.ranks.agreed(checkpoints.load() if self.ranks.rank == 0 else None)
        if state:
            self._restore(state)
        about = {"iterations": self.iterations, "images": self.batch * self.ranks.count, "resumed": self.done}
        log.begin(**asdict(self.settings), **about)
        log.write(iteration=self.done, top1=self.last.top1, kl=self.last.kl)
        began, sums = time.perf_counter(), torch.zeros(2)
        between = max(-(-self.iterations // CHECKS), 1)
        while self.done < self.iterations and not self.failed:
            losses = self._iteration()
            sums += losses
            self.done += 1
            on_step(self.done, self.iterations, float(losses[1]))
            if not bool(losses.isfinite().all()):
                self.failed = f"a loss was no number after {self.done} iterations"
            elif self.done % between == 0 or self.done == self.iterations:
                self._check()
                self.failed = self._useless()
                of_generator, of_student = (sums / ((self.done - 1) % between + 1)).tolist()
                log.write(
                    iteration=self.done, seconds=round(time.perf_counter() - began, 1),
                    generator_loss=of_generator, student_loss=of_student,
                    top1=self.last.top1, kl=self.last.kl, rate=self._rate(self.settings.rate_student),
                )  # fmt: skip
                sums.zero_()
                self._keep(checkpoints)
        if self.ranks.rank == 0:
            log.plot()
        return self._trained()

    def _iteration(self) -> Tensor:
        """One step of each; the losses of the generator and of the quantized graph."""
        image, shares = self.drawing.draw(self.batch, self.random)
        outputs, inner = self.teacher(image)
        t = log_probabilities(outputs[0])
        loss = generator_loss(self.settings, t, lambda: log_probabilities(self._answers(image)), shares)
        if self.teacher.statistics:
            loss = loss + self.settings.statistics * statistics_loss(inner, self.teacher.statistics)
        # Through the quantized graph, but not to its weights
        found = torch.autograd.grad(loss, self.drawn, allow_unused=True)
        for parameter, gradient in zip(self.drawn, found, strict=True):
            parameter.grad = gradient
        self._step(self.of_generator, self.drawn, self.settings.rate_generator)
        learning = self.done >= self._begin(self.settings.warmup)
        observing = self.done < self._begin(self.settings.observed)
        self.student.observe(observing)
        with torch.set_grad_enabled(learning):
            q = log_probabilities(self._answers(image.detach()))
            wanted = student_loss(self.settings, t.detach(), q, shares)
        self.student.observe(False)
        if observing:
            self.student.share(self.groups)
            average([each.seen for each in self.student.ranges.values()], self.ranks)
        if learning:
            self.of_student.zero_grad()
            wanted.backward()
            self._step(self.of_student, self.learned, self.settings.rate_student)
        losses = torch.stack([loss.detach(), wanted.detach()]).float()
        average([losses], self.ranks)  # so that all processes see it where one of them has met no number
        return losses.cpu()

    def _step(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], rate: float) -> None:
        average_gradients(parameters, self.ranks)
        for group in optimizer.param_groups:
            group["lr"] = self._rate(rate)
        optimizer.step()

    def _answers(self, image: Tensor) -> Tensor:
        """Scores of the quantized graph for pixels 0..1, whole batches of the model."""
        return self.teacher.outputs(image, self.student.module)[0].flatten(1)

    # -- what came of it

    def _agreement(self) -> Agreement:
        self.student.module.eval()
        return self.held_out.agreement(self._answers)

    def _check(self) -> None:
        self.last = self.ranks.agreed(self._agreement())
        if self.last.kl <= self.best.kl:
            self.best, self.best_state = self.last, _copy(self.student.module.state_dict())

    def _useless(self) -> str:
        """Why there is no sense in going on; empty if there is."""
        if not isfinite(self.last.kl):
            return f"scores were no numbers after {self.done} iterations"
        if self.best == self.start and self.done >= PATIENCE * self.iterations:
            return (
                f"in {self.done} iterations it came no nearer to the model, on held-out images: "
                f"KL {self.last.kl:.3g} and {self.last.top1:.1f} % agreement, from {self.start.kl:.3g} and "
                f"{self.start.top1:.1f} % at the start"
            )
        return ""

    def _trained(self) -> Trained:
        self.student.module.load_state_dict(self.best_state)
        model, plan = self.student.learned()
        useless = self.best == self.start  # else what was reached before it failed is worth keeping
        return Trained(model, plan, self.done, self.start, self.best, self.failed if useless else "", self._about())

    def _about(self) -> str:
        said = f"{self.settings.method}: {self.done} iterations of a generator and the quantized graph in turn"
        said += f", {self.batch * self.ranks.count} images each, on {self.device.type}"
        if self.failed:
            said += f"; ended early: {self.failed}"
        if not self.teacher.statistics:
            said += "; the model keeps no BatchNormalization statistics, so the loss that asks for them was left out"
        return said

    # -- to go on where it was killed

    def _keep(self, checkpoints: Checkpoints) -> None:
        random = self.ranks.gathered(self.random.get_state())
        if self.ranks.rank == 0:
            checkpoints.save({
                "done": self.done, "failed": self.failed, "random": random, "last": asdict(self.last),
                "best": asdict(self.best), "best_state": self.best_state,
                **{name: each.state_dict() for name, each in self._parts().items()},
            })  # fmt: skip

    def _restore(self, state: dict[str, Any]) -> None:
        self.done, self.failed, self.best_state = state["done"], state["failed"], state["best_state"]
        self.last, self.best = Agreement(**state["last"]), Agreement(**state["best"])
        self.random.set_state(state["random"][self.ranks.rank])
        for name, each in self._parts().items():
            each.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "student": self.student.module, "drawing": self.drawing,
            "of_student": self.of_student, "of_generator": self.of_generator,
        }  # fmt: skip


def _unfold(student: ObservedStudent, layers: Sequence[gs.Node], gains: Mapping[str, np.ndarray]) -> None:
    """Let each layer train the weights that it had before folding."""
    for layer in layers:
        written = layer.outputs[0]
        if written.name not in gains and len(written.outputs) == 1 and written.outputs[0].op == "Add":
            written = written.outputs[0].outputs[0]  # MatMul, and the Add that has its bias
        if written.name in gains:
            weights = student.weights[layer.inputs[1].name]
            gain = torch.from_numpy(gains[written.name].astype(np.float32)).to(weights.gain.device)
            weights.unfold(gain, weight_axis(layer))


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
