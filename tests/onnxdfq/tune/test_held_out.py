"""Agreement on images that fill no batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxdfq.images.teacher import Teacher
from onnxdfq.tune.held_out import HeldOut


def test_the_model_agrees_with_itself_and_not_with_its_opposite(trainee) -> None:
    made = trainee()
    teacher = Teacher(made.subject, size=8)
    held = HeldOut(teacher, made.held_out)
    same = held.agreement(lambda image: teacher(image)[0][0])
    assert (same.top1, same.kl) == (100.0, pytest.approx(0, abs=1e-6))
    other = held.agreement(lambda image: -teacher(image)[0][0])
    assert other.top1 == 0
    assert other.kl > 0.1


def test_images_that_fill_up_a_batch_do_not_count(trainee) -> None:
    made = trainee()
    teacher = Teacher(made.subject, size=8)
    calls = []

    def wrong_on_the_first(image: torch.Tensor) -> torch.Tensor:
        scores = teacher(image)[0][0].clone()
        if not calls:
            scores[:2] = -scores[:2]
        calls.append(len(image))
        return scores

    found = HeldOut(teacher, made.held_out).agreement(wrong_on_the_first)  # 22 images: two more fill the third batch
    assert calls == [8, 8, 8]
    assert found.top1 == pytest.approx(100 * 20 / 22)


def test_scores_that_are_no_numbers(trainee) -> None:
    made = trainee()
    held = HeldOut(Teacher(made.subject, size=8), made.held_out)
    assert np.isnan(held.agreement(lambda image: torch.full((len(image), 4), torch.nan)).kl)
