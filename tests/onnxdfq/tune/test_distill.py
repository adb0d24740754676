"""Gradients towards the answers of the model, scores or others, and towards what its blocks give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnxdfq.engine.lower import tap
from onnxdfq.images.teacher import Teacher
from onnxdfq.tune.distill import BLOCKS, Distillation
from onnxdfq.tune.rates import Rates, parameters_of
from onnxdfq.tune.student import Student
from tests.onnxdfq.tune.planned import smooth

IMAGE = torch.from_numpy(smooth(16)) / 255


def room(made, *, classes: bool = True, ends: tuple[str, ...] = ("r",)) -> tuple[Distillation, Student, Teacher]:
    subject = replace(made.subject, model=made.model)
    teacher = Teacher(subject, {}, size=8)
    student = Student(made.model, made.plan, frozenset({"b2", "b3"}), subject.into.shapes(8), torch.device("cpu"))
    student.module.eval()
    return Distillation(student, teacher, ends, classes=classes), student, teacher


def learned(work: Distillation, student: Student, steps: int) -> list[float]:
    """Losses on the way."""
    groups = parameters_of(student, Rates(2e-2, 2e-3, 5e-3))
    parameters = [each for group in groups for each in group["params"]]
    optimizer, losses = torch.optim.Adam(groups), []
    for _ in range(steps):
        with student.learning(parameters):
            losses.append(work.gradients(IMAGE))
            optimizer.step()
    return losses


@torch.no_grad()
def far(student: Student, teacher: Teacher, *, classes: bool) -> float:
    """KL, or the relative error, of what the graph answers."""
    t, q = teacher.outputs(IMAGE)[0], teacher.outputs(IMAGE, student.module)[0]
    if not classes:
        return float((t - q).square().mean() / t.var())
    t, q = torch.log_softmax(t, 1), torch.log_softmax(q, 1)
    return float((t.exp() * (t - q)).sum(1).mean())


@pytest.mark.parametrize("classes", [True, False])
def test_the_graph_comes_nearer_to_the_model(trainee, classes: bool) -> None:
    work, student, teacher = room(trainee(2), classes=classes)
    before = far(student, teacher, classes=classes)
    losses = learned(work, student, 120)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert far(student, teacher, classes=classes) < 0.8 * before
    assert not any(each.requires_grad or each.grad is not None for each in student.module.parameters())


def test_weights_scales_and_biases_all_learn(trainee) -> None:
    work, student, _ = room(trainee(2))
    watched = [student.weights["w2"].steps, student.weights["w2"].growth, student.ranges["r"].growth,
               student.biases["b2"], student.biases["b3"]]  # fmt: skip
    before = [each.detach().clone() for each in watched]
    learned(work, student, 4)
    assert not any(torch.equal(one, other) for one, other in zip(before, watched, strict=True))


def test_parts_of_a_batch_add_up(trainee) -> None:
    """Two calls of the model, as one: the loss is a mean over all images."""
    whole, student, _ = room(trainee(2), ends=())
    losses = [whole.gradients(part.detach()) for part in _with_gradients(student, IMAGE, IMAGE[:8], IMAGE[8:])]
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-5)


def _with_gradients(student: Student, *images: torch.Tensor):
    with student.learning([student.biases["b3"]]):
        yield from images


def test_what_blocks_give_counts_as_well(trainee) -> None:
    """By the relative error of each."""
    without, with_it = (room(trainee(2), ends=ends) for ends in ((), ("r",)))
    losses = []
    for work, student, _ in (without, with_it):
        with student.learning([student.biases["b3"]]):
            losses.append(work.gradients(IMAGE))
    _, student, teacher = with_it
    with torch.no_grad():
        errors = []
        for part in IMAGE.split(8):
            x, r = (teacher.called(tap(each, ["r"]), part)[1]["r"] for each in (student.module, teacher.network))
            errors.append(float((x - r).square().mean() / r.var()))
    assert np.mean(errors) > 0
    assert losses[1] - losses[0] == pytest.approx(BLOCKS * np.mean(errors), rel=1e-4)


def test_outputs_that_cannot_be_compared_are_left_out(trainee, monkeypatch) -> None:
    called = Teacher.called

    def with_counts(self, network, batch):
        outputs, inner = called(self, network, batch)
        return (*outputs, torch.zeros(16, dtype=torch.int64)), inner

    found = []
    for each in (called, with_counts):
        work, student, _ = room(trainee(2), classes=False)
        monkeypatch.setattr(Teacher, "called", each)
        found.append(learned(work, student, 1)[0])
    assert found[0] == pytest.approx(found[1])
