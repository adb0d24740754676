"""The whole graph learns from the answers of the model, scores or others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnxdfq.images.teacher import Teacher
from onnxdfq.tune import distill as module
from onnxdfq.tune.distill import Distillation, distill
from onnxdfq.tune.rates import Rates
from onnxdfq.tune.student import Student
from tests.onnxdfq.tune.planned import smooth


@pytest.fixture(autouse=True)
def _large_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With which a few come far."""
    monkeypatch.setattr(module, "RATES", Rates(2e-2, 2e-3, 5e-3))


def room(made, classes: bool) -> tuple[Distillation, torch.Tensor]:
    subject = replace(made.subject, model=made.model)
    teacher = Teacher(subject, {}, size=8)
    shapes = subject.into.shapes(8)
    student = Student(made.model, made.plan, frozenset({"b2", "b3"}), shapes, torch.device("cpu"))
    image = torch.from_numpy(smooth(32)) / 255
    return Distillation(student, teacher, ["r"], classes, 16), image


def answers_of(work: Distillation, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First outputs of the model and of the quantized graph."""
    return work.teacher.outputs(image)[0], work.teacher.outputs(image, work.student.module)[0]


def kl(work: Distillation, image: torch.Tensor) -> float:
    with torch.no_grad():
        t, q = (torch.log_softmax(each, 1) for each in answers_of(work, image))
        return float((t.exp() * (t - q)).sum(1).mean())


def error(work: Distillation, image: torch.Tensor) -> float:
    with torch.no_grad():
        t, q = answers_of(work, image)
        return float((t - q).square().mean() / t.var())


@pytest.mark.parametrize(("classes", "measure"), [(True, kl), (False, error)])
def test_the_graph_comes_nearer_to_the_model(trainee, classes: bool, measure) -> None:
    work, image = room(trainee(2), classes)
    before, losses = measure(work, image), []
    distill(work, image, 120, torch.Generator().manual_seed(0), on_step=losses.append)
    assert len(losses) == 120
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert measure(work, image) < 0.8 * before
    assert not any(each.requires_grad or each.grad is not None for each in work.student.module.parameters())
    assert not work.student.module.training


def test_scales_and_biases_learn_too(trainee) -> None:
    work, image = room(trainee(2), True)
    student = work.student
    watched = [student.weights["w2"].growth, student.ranges["r"].growth, student.biases["b2"], student.biases["b3"]]
    before = [each.detach().clone() for each in watched]
    distill(work, image, 4, torch.Generator().manual_seed(0))
    assert not any(torch.equal(one, other) for one, other in zip(before, watched, strict=True))


def test_outputs_that_cannot_be_compared_are_left_out(trainee, monkeypatch) -> None:
    work, image = room(trainee(2), False)
    found: list[float] = []
    called = Teacher.called

    def with_counts(self, network, batch):
        outputs, inner = called(self, network, batch)
        return (*outputs, torch.zeros(16, dtype=torch.int64)), inner

    for each in (called, with_counts):
        monkeypatch.setattr(Teacher, "called", each)
        torch.manual_seed(0)
        student = {name: each.clone() for name, each in work.student.module.state_dict().items()}
        distill(work, image, 1, torch.Generator().manual_seed(0), on_step=found.append)
        work.student.module.load_state_dict(student)
    assert found[0] == pytest.approx(found[1])


def test_blocks_are_led_to_what_they_give_in_the_model(trainee, monkeypatch) -> None:
    """With the way there counting alone, it is what comes nearer."""
    work, image = room(trainee(2), True)
    monkeypatch.setattr(module, "TEMPERATURE", 1e-3)  # scores count nothing: T^2 KL
    monkeypatch.setattr(module, "BLOCKS", 1.0)
    losses: list[float] = []
    distill(work, image, 120, torch.Generator().manual_seed(0), on_step=losses.append)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    monkeypatch.setattr(module, "BLOCKS", 0.0)
    distill(work, image, 1, torch.Generator().manual_seed(0), on_step=losses.append)
    assert losses[-1] < 0.1 * losses[-2]
