"""The losses of AdaDFQ against numbers worked out by numpy, and the opponent they are taken against."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxdfq.images.generators.adadfq import AdaDfq, balance_loss, margin_loss, student_loss

rng = np.random.default_rng(0)
T, Q = 3 * rng.standard_normal((2, 6, 4))
LABELS = np.array([0, 1, 2, 3, 0, 1])


def soft(scores):
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def entropy(scores):
    return -(soft(scores) * np.log(soft(scores))).sum(1)


def told(scores):
    return -np.log(soft(scores)[np.arange(6), LABELS]).mean()


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.8), (0.4, 0.5)])
def test_margin(low, high):
    h = entropy(T - Q)
    relative = (h - h.min()) / (np.log(4) - h.min())
    expected = np.maximum(low - relative, 0).mean() + np.maximum(relative - high, 0).mean()
    assert expected > 0
    assert float(margin_loss(torch.tensor(T), torch.tensor(Q), low, high)) == pytest.approx(expected)


def test_margin_of_two_that_agree_on_everything():
    t = torch.tensor(T, requires_grad=True)
    loss = margin_loss(t, t + 1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(t.grad).all()


def test_balance():
    expected = 0.2 * told(T - Q) + 0.1 * told(T + Q)
    t, q = torch.tensor(T), torch.tensor(Q)
    assert float(balance_loss(t, q, torch.tensor(LABELS))) == pytest.approx(expected)
    assert float(balance_loss(t, q, torch.eye(4, dtype=t.dtype)[LABELS])) == pytest.approx(expected)


def test_log_probabilities_do_as_well_as_logits():
    logits = torch.tensor(T), torch.tensor(Q)
    logs = [torch.log_softmax(each, 1) for each in logits]
    torch.testing.assert_close(margin_loss(*logs), margin_loss(*logits))
    torch.testing.assert_close(balance_loss(*logs, torch.tensor(LABELS)), balance_loss(*logits, torch.tensor(LABELS)))


def test_student():
    expected = -25 * entropy((T - Q) / 5).mean()
    assert float(student_loss(torch.tensor(T), torch.tensor(Q), 5.0)) == pytest.approx(expected)


def test_a_student_that_differs_by_a_constant_is_perfect():
    t = torch.tensor(T)
    assert float(student_loss(t, t + 3, 5.0)) == pytest.approx(-25 * np.log(4))


def test_gradients_flow_through_the_quantized_copy_into_the_pixels(classifier):
    source = AdaDfq(classifier(batch=16), steps=1)
    image = torch.rand(source.batch, 3, 12, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    q = source.answers(image)
    q[:, 0].sum().backward()
    assert (image.grad.abs().amax((1, 2, 3)) > 0).all()
    with torch.no_grad():
        assert not torch.allclose(q, source.judged(image)[0], atol=1e-3), "the copy errs"
