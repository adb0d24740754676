"""What the three trained generators have in common as sources of images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnxdfq.images.generators import training
from onnxdfq.images.generators.adadfq import AdaDfq
from onnxdfq.images.generators.gdfq import Gdfq
from onnxdfq.images.generators.qimera import Qimera
from onnxdfq.images.losses import statistics_mismatch
from onnxdfq.images.sources import KINDS

SOURCES = (Gdfq, Qimera, AdaDfq)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Less to compute: tests are about the loop, not about what large generators can do."""
    monkeypatch.setattr(training, "FULL_WIDTH", 16)
    monkeypatch.setattr(training, "LEAST_WIDTH", 16)
    monkeypatch.setattr(training, "MOST", 64)


@pytest.mark.parametrize("kind", SOURCES)
def test_images_and_shares(kind, classifier):
    source = kind(classifier(batch=16), steps=2)
    heard = []
    batch = source.make(0, 0, lambda *each: heard.append(each))
    assert batch.pixels.shape == (source.size, 3, 12, 12)
    assert batch.pixels.dtype == batch.labels.dtype == np.float32
    assert np.array_equal(batch.pixels, np.clip(np.rint(batch.pixels), 0, 255))
    assert 40 < batch.pixels.std() < 90
    assert batch.labels.shape == (source.size, 5)
    np.testing.assert_allclose(batch.labels.sum(1), 1, rtol=1e-5)
    assert [each[:2] for each in heard] == [(1, 2), (2, 2)]


@pytest.mark.parametrize("kind", SOURCES)
def test_seed_and_shard_decide_and_nothing_else(kind, classifier):
    source = kind(classifier(batch=16), steps=2)
    first = source.make(3, 1).pixels
    torch.rand(5)  # whatever else draws random numbers
    assert np.array_equal(kind(classifier(batch=16), steps=2).make(3, 1).pixels, first)
    assert not np.array_equal(source.make(3, 0).pixels, first)
    assert not np.array_equal(source.make(4, 1).pixels, first)


@pytest.mark.parametrize("kind", SOURCES)
def test_making_images_leaves_torchs_random_numbers_alone(kind, classifier):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    kind(classifier(batch=16), steps=1).make(0, 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", SOURCES)
def test_the_loss_falls_and_images_come_to_show_what_they_should(kind, classifier):
    losses = []
    source = kind(classifier(batch=16), steps=80)
    batch = source.make(0, 0, lambda done, total, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    with torch.no_grad():
        log, inner = source.judged(torch.tensor(batch.pixels) / 255)
        untrained = kind(classifier(batch=16), steps=0).make(0, 0)
        _, before = source.judged(torch.tensor(untrained.pixels) / 255)
    right = (log.argmax(1).numpy() == batch.labels.argmax(1)).mean()
    assert right > 0.3, "chance is 0.2"
    statistics = source.teacher.statistics
    assert statistics_mismatch(inner, statistics) < statistics_mismatch(before, statistics)


@pytest.mark.parametrize(("batch", "together"), [(1, 16), (5, 20), (16, 16), (None, 64)])
def test_batches_of_the_generator_fill_those_of_the_model(batch, together, classifier):
    source = Gdfq(classifier(batch=batch), steps=1)
    assert source.batch == together
    assert source.size % together == 0
    assert len(source.make(0, 0).pixels) == source.size


def test_a_model_without_statistics_is_led_by_classes(classifier):
    source = Qimera(classifier(norm="n = Identity(a)"), steps=2)
    assert "BatchNormalization" not in source.about
    assert source.make(0, 0).pixels.shape[1:] == (3, 12, 12)


def test_large_images_have_a_narrower_generator(classifier, monkeypatch):
    monkeypatch.undo()
    assert training.width_for(classifier(side=32).into) == training.FULL_WIDTH
    assert training.width_for(classifier(side=224).into) == training.LEAST_WIDTH


@pytest.mark.parametrize("name", ["gdfq", "qimera", "adadfq"])
def test_they_are_sources_that_a_user_can_choose_for_a_classifier(name, classifier):
    subject = classifier()
    assert KINDS[name].lacks(subject) == ""
    assert KINDS[name].build(subject, 7).steps == 7
    assert "classifier" in KINDS[name].lacks(replace(subject, guides=replace(subject.guides, classes=0)))
