"""A router learns which images need a dear level, and is the same network in ONNX."""

from __future__ import annotations

import numpy as np
import pytest

from onnxdfq.dynamic import router as module
from onnxdfq.dynamic.answers import Answers
from onnxdfq.dynamic.router import leaning, train
from onnxdfq.images.model_input import ModelInput
from tests.passes.conftest import run

SIDE, COUNT = 32, 192
COSTS = (16.0, 64.0)


def bright_ones_are_hard(seed: int = 0) -> tuple[np.ndarray, Answers]:
    """The cheap level fails on bright images."""
    rng = np.random.default_rng(seed)
    bright = rng.random(COUNT) < 0.5
    images = (rng.normal(size=(COUNT, 3, SIDE, SIDE)) + bright[:, None, None, None]).astype(np.float32)
    original = 6 * np.eye(4, dtype=np.float32)[rng.integers(4, size=COUNT)]
    cheap = np.where(bright[:, None], np.roll(original, 1, 1), original)
    return images, Answers(original, (cheap, original), probabilities=False)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_it_learns_what_the_cheap_level_fails_on(layout: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "STEPS", 120)
    monkeypatch.setattr(module, "WARM_UP", 80)
    images, answers = bright_ones_are_hard()
    into = ModelInput("x", 3, SIDE, SIDE, layout, None, np.dtype(np.float32))
    found = train(images, answers, COSTS, 42.0, into, seed=0)
    others, unseen = bright_ones_are_hard(seed=1)
    fed = others.transpose(0, 2, 3, 1) if layout == "NHWC" else others
    said = run(found.model, np.ascontiguousarray(fed))[0]
    level = (said + leaning(found.numbers, COSTS, 42.0)).argmax(1)
    assert unseen.right[level, np.arange(COUNT)].mean() > 0.9
    assert np.array(COSTS)[level].mean() < 46
    again = train(images, answers, COSTS, 42.0, into, seed=0)
    np.testing.assert_array_equal(found.numbers, again.numbers)
    own = images.transpose(0, 2, 3, 1) if layout == "NHWC" else images
    np.testing.assert_allclose(run(found.model, np.ascontiguousarray(own))[0], found.numbers, atol=1e-3)


def test_leaning_keeps_to_the_cost() -> None:
    numbers = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    costs = np.array([16.0, 36.0, 64.0])
    for wanted in (18.0, 30.0, 50.0, 63.0):
        mean = costs[(numbers + leaning(numbers, costs, wanted)).argmax(1)].mean()
        assert wanted - 2 < mean <= wanted + 0.1  # one image of 500
    assert costs[(numbers + leaning(numbers, costs, 10.0)).argmax(1)].mean() == pytest.approx(16, abs=0.5)
