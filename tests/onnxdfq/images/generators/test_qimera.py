"""Superposed embeddings and their soft labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from onnxdfq.images.generators.qimera import (
    SUPERPOSED_BATCHES,
    Qimera,
    SuperposedDrawing,
    classes_together,
    soft_labels,
    standardized,
    superposed,
)


def test_a_single_vector_is_standardized_by_itself():
    values = standardized(3 + 5 * torch.randn(7, 1, 40))
    torch.testing.assert_close(values.mean(2), torch.zeros(7, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(2, correction=0), torch.ones(7, 1), atol=1e-3, rtol=0)


def test_each_of_several_places_is_standardized_over_all_images():
    values = standardized(torch.randn(7, 3, 40) * torch.tensor([1.0, 4, 9])[:, None] + 2)
    torch.testing.assert_close(values.mean((0, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std((0, 2), correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert values[0].mean(1).abs().max() > 1e-3


def test_vectors_are_added_up_by_weight():
    values = superposed(torch.tensor([[[1.0, 2.0], [10.0, 20.0]]]), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(values, torch.tensor([[7.75, 15.5]]))


def test_weights_of_the_same_class_are_added_up():
    soft = soft_labels(torch.tensor([[2, 0], [1, 1]]), torch.tensor([[0.3, 0.7], [0.4, 0.6]]), 4)
    torch.testing.assert_close(soft, torch.tensor([[0.7, 0, 0.3, 0], [0, 1.0, 0, 0]]))


@pytest.mark.parametrize(("classes", "together"), [(2, 2), (10, 2), (100, 10), (1000, 100), (21841, 100)])
def test_how_many_classes_make_an_image(classes, together):
    assert classes_together(classes) == together


@pytest.mark.parametrize("classes", [5, 101])
def test_labels_sum_to_one_and_name_few_classes(classifier, classes):
    drawing, random = SuperposedDrawing(classifier(classes)), torch.Generator().manual_seed(0)
    named = set()
    for _ in range(8):
        image, shares = drawing.draw(16, random)
        assert image.shape == (16, 3, 12, 12)
        assert shares.shape == (16, classes)
        torch.testing.assert_close(shares.sum(1), torch.ones(16))
        named.add(int((shares > 0).sum(1).max()))
    assert min(named) == 1, "batches of one class each"
    assert 1 < max(named) <= classes_together(classes), "and of several"


def test_the_embedding_begins_as_the_rows_of_the_classifier(classifier):
    subject = classifier()
    rows = next(numpy_helper.to_array(each) for each in subject.model.graph.initializer if each.name == "w3")
    np.testing.assert_allclose(SuperposedDrawing(subject).embedding.detach(), rows / rows.std(), rtol=1e-5)


def test_a_mapping_makes_the_code_short(classifier):
    plain, mapped = SuperposedDrawing(classifier()), SuperposedDrawing(classifier(), mapping=True)
    assert plain.generator.first.in_features == 16
    assert mapped.mapping.in_features == 16
    assert mapped.generator.first.in_features == mapped.mapping.out_features == 100


def test_it_says_what_it_does(classifier):
    about = Qimera(classifier(), steps=7).about
    assert "Qimera" in about
    assert "7 steps" in about
    assert "1 BatchNormalization" in about


def test_gradients_are_the_same_every_time_though_threads_share_the_work(classifier):
    drawing = SuperposedDrawing(classifier(classes=150))  # 100 rows for each image: many images meet in one
    seed = next(k for k in range(99) if torch.rand((), generator=torch.Generator().manual_seed(k)) < SUPERPOSED_BATCHES)
    found, threads = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(4):
            drawing.zero_grad()
            image, _ = drawing.draw(64, torch.Generator().manual_seed(seed))
            (image * torch.linspace(0, 1, image.shape[3])).sum().backward()
            found.append(drawing.embedding.grad.clone())
    finally:
        torch.set_num_threads(threads)
    assert float(found[0].abs().max()) > 0
    assert all(torch.equal(each, found[0]) for each in found)
