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
    work = Distillation(student, lambda each: teacher.outputs(each, student.module), teacher.outputs, classes, 16)
    return work, image


def kl(work: Distillation, image: torch.Tensor) -> float:
    with torch.no_grad():
        t, q = (torch.log_softmax(answers(image)[0], 1) for answers in (work.original, work.quantized))
        return float((t.exp() * (t - q)).sum(1).mean())


def error(work: Distillation, image: torch.Tensor) -> float:
    with torch.no_grad():
        t, q = (answers(image)[0] for answers in (work.original, work.quantized))
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


def test_outputs_that_cannot_be_compared_are_left_out(trainee) -> None:
    work, image = room(trainee(2), False)
    found: list[float] = []
    for extra in ([], [torch.zeros(16, dtype=torch.int64)]):
        both = [lambda each, own=own, extra=extra: [*own(each), *extra] for own in (work.quantized, work.original)]
        shown = replace(work, quantized=both[0], original=both[1])
        torch.manual_seed(0)
        student = {name: each.clone() for name, each in work.student.module.state_dict().items()}
        distill(shown, image, 1, torch.Generator().manual_seed(0), on_step=found.append)
        work.student.module.load_state_dict(student)
    assert found[0] == pytest.approx(found[1])
