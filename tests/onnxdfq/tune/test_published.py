"""Settings and losses of the papers, against numbers worked out by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxdfq.images.generators import adadfq, gdfq
from onnxdfq.tune.published import drawing, generator_loss, settings_for, statistics_loss, student_loss

rng = np.random.default_rng(0)
T, Q = (torch.log_softmax(torch.tensor(3 * rng.standard_normal((6, 4))), 1) for _ in range(2))
SHARES = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0, 1]] * 0.7 + 0.3 / 4


def never() -> torch.Tensor:
    raise AssertionError("the quantized graph has no part in this loss")


@pytest.mark.parametrize("method", ["gdfq", "qimera"])
def test_generator_loss_is_the_cross_entropy(method) -> None:
    expected = -(SHARES * T).sum(1).mean()
    torch.testing.assert_close(generator_loss(settings_for(method, 10), T, never, SHARES), expected)


def test_the_generator_of_adadfq_plays_against_the_quantized_graph() -> None:
    expected = adadfq.margin_loss(T, Q) + adadfq.balance_loss(T, Q, SHARES)
    torch.testing.assert_close(generator_loss(settings_for("adadfq", 10), T, lambda: Q, SHARES), expected)


@pytest.mark.parametrize(("classes", "temperature"), [(10, 20.0), (1000, 5.0)])
def test_student_losses(classes, temperature) -> None:
    found = student_loss(settings_for("adadfq", classes), T, Q, SHARES)
    torch.testing.assert_close(found, adadfq.student_loss(T, Q, temperature))
    for method in ("gdfq", "qimera"):
        found = student_loss(settings_for(method, classes), T, Q, SHARES)
        torch.testing.assert_close(found, gdfq.student_loss(T, Q, SHARES, 20.0))


def test_statistics_loss_is_of_means_and_variances() -> None:
    x, y = rng.standard_normal((5, 3, 4, 4)), rng.standard_normal((5, 2))
    mean, deviation = rng.standard_normal(3), rng.uniform(0.5, 2, 3)
    terms = [
        ((x.mean((0, 2, 3)) - mean) ** 2).mean() + ((x.var((0, 2, 3)) - deviation**2) ** 2).mean(),
        (y.mean(0) ** 2).mean() + ((y.var(0) - 1) ** 2).mean(),
    ]
    known = {
        "x": (torch.tensor(mean).float(), torch.tensor(deviation).float()),
        "y": (torch.zeros(2), torch.ones(2)),
    }
    inner = {"x": torch.tensor(x), "y": torch.tensor(y), "z": torch.zeros(1)}
    assert float(statistics_loss(inner, known)) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("method", ["gdfq", "qimera", "adadfq"])
def test_generators_draw_as_published(trainee, method) -> None:
    drawn = drawing(settings_for(method, 10), trainee().subject)
    assert drawn.generator.middle.weight.shape[0] == 128
    with torch.no_grad():
        image, shares = drawn.draw(32, torch.Generator().manual_seed(1))
    assert image.shape == (32, 3, 8, 8)
    torch.testing.assert_close(image.mean((0, 2, 3)), torch.full((3,), 118 / 255), rtol=0, atol=1e-3)
    torch.testing.assert_close(image.std((0, 2, 3)), torch.full((3,), 64 / 255), rtol=0, atol=1e-2)
    torch.testing.assert_close(shares.sum(1), torch.ones(32))


def test_codes_of_the_published_gdfq_lie_around_zero(trainee) -> None:
    subject, codes = trainee().subject, {}
    for published in (False, True):
        drawn = gdfq.LabelledDrawing(subject, published=published)
        with torch.no_grad():
            drawn.embedding.fill_(1)
        drawn.generator.forward = lambda code, shares, published=published: codes.update({published: code})
        with torch.no_grad():
            drawn.draw(200, torch.Generator().manual_seed(0)) if not published else _quiet(drawn)
    assert float(codes[False].mean()) == pytest.approx(1, abs=0.05)
    assert float(codes[True].mean()) == pytest.approx(0, abs=0.05)


def _quiet(drawn) -> None:
    forward = drawn.generator.forward
    drawn.generator.forward = lambda code, shares: (forward(code, shares), torch.zeros(1))[1]
    drawn.draw(200, torch.Generator().manual_seed(0))


def test_settings_go_by_the_number_of_classes() -> None:
    assert [settings_for("qimera", classes).batch for classes in (10, 100, 101, 1000)] == [200, 200, 16, 16]
    assert [settings_for("adadfq", classes).rate_student for classes in (10, 1000)] == [1e-4, 1e-5]
    assert settings_for("gdfq", 1000).rate_student == 1e-6
    assert settings_for("adadfq", 1000).milestones == (350, 400)
