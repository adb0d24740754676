"""The loss of GDFQ's student against numbers worked out by numpy, and what its generator is fed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxdfq.images.generators.gdfq import LabelledDrawing, confidence_loss, student_loss

T = np.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
Q = np.array([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]])
SHARES = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])


def soft(scores):
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def test_images_are_to_show_their_shares_but_no_more_than_nine_tenths_of_them():
    short = (SHARES * np.log(np.where(SHARES > 0, SHARES, 1) / soft(T))).sum(1)
    expected = np.maximum(short + np.log(0.9), 0).mean()
    found = confidence_loss(torch.log_softmax(torch.tensor(T), 1), torch.tensor(SHARES))
    assert float(found) == pytest.approx(expected)
    assert expected > 0


@pytest.mark.parametrize(("sure", "content"), [(0.95, True), (0.85, False)])
def test_what_is_recognized_is_left_alone(sure, content):
    log = torch.log(torch.tensor([[sure, 1 - sure]]))
    assert (float(confidence_loss(log, torch.tensor([[1.0, 0.0]]))) == 0) == content


def test_the_student_is_to_follow_the_model_and_the_labels():
    p, q = soft(T / 20), soft(Q / 20)
    divergence = (p * np.log(p / q)).mean()  # over images and classes
    expected = 400 * divergence - (SHARES * np.log(soft(Q))).sum(1).mean()
    assert float(student_loss(*map(torch.tensor, (T, Q, SHARES)))) == pytest.approx(expected)


@pytest.mark.parametrize(("classes", "tables"), [(5, False), (100, False), (101, True)])
def test_many_classes_enter_through_the_normalizations(classifier, classes, tables):
    drawing = LabelledDrawing(classifier(classes))
    assert (drawing.embedding is None) == tables
    assert drawing.generator.norms[0].classes == (classes if tables else 0)
    image, shares = drawing.draw(6, torch.Generator().manual_seed(0))
    assert image.shape == (6, 3, 12, 12)
    assert torch.equal(shares.sum(1), torch.ones(6))
    assert torch.equal(shares.max(1).values, torch.ones(6))


def test_a_generator_learns_no_more_classes_than_it_draws(classifier):
    drawing, random = LabelledDrawing(classifier(40), 3), torch.Generator().manual_seed(0)
    _, shares = drawing.draw(60, random)
    assert len(set(shares.argmax(1).tolist())) == 3
