"""Labels of every difficulty, from how alike classes are."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxdfq.images.difficulty import class_weights, doubt, entropy, levels, neighbours, rank_correlation

# Classes 0 and 1 are alike, and so are 2 and 3
WEIGHTS = np.array([[4, 0, 0.0], [4, 1, 0], [0, 0, 1], [0, 0.4, 1]], np.float32)


def test_neighbours_are_the_classes_that_are_alike() -> None:
    found = neighbours(WEIGHTS)
    assert found.others.shape == (4, 1)  # of so few classes one
    assert found.others[:, 0].tolist() == [1, 0, 3, 2]


def test_products_favour_classes_with_large_weights() -> None:
    weights = np.array([[1, 0], [0.9, 0.1], [9, 5]], np.float32)
    assert neighbours(weights).others[0, 0] == 1
    assert neighbours(weights, dot=True).others[0, 0] == 2


def test_more_classes_have_larger_groups() -> None:
    rng = np.random.default_rng(0)
    counts = {classes: neighbours(rng.normal(size=(classes, 8))).others.shape[1] for classes in (2, 10, 100, 1000)}
    assert counts == {2: 1, 10: 2, 100: 4, 1000: 4}


def test_labels_go_from_sure_to_torn_and_keep_their_class_first() -> None:
    found = neighbours(np.random.default_rng(0).normal(size=(10, 16)).astype(np.float32))
    difficulty = np.linspace(0, 1, 21)
    labels = found.labels(np.full(21, 3), difficulty)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    assert labels[0].tolist() == np.eye(10)[3].tolist()
    assert (np.diff(entropy(labels)) > 0).all()
    assert (labels.argmax(1) == 3).all()
    runner_up = np.sort(labels[-1])[-2:]
    assert 0 < runner_up[1] - runner_up[0] < 0.03  # just leads
    assert set(np.flatnonzero(labels[-1])) == {3, *found.others[3]}


def test_levels_are_easy_first_then_rise() -> None:
    assert levels(8, 0.5).tolist() == [0, 0, 0, 0, 0.25, 0.5, 0.75, 1]
    assert not levels(5, 0).any()


def test_doubt_reads_logits_and_probabilities_alike() -> None:
    logits = np.array([[5.0, 0, 0], [1, 1, 1]])
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(doubt(logits), doubt(shares), atol=1e-6)
    assert doubt(logits)[1] == pytest.approx(np.log(3))


def test_rank_correlation_is_spearmans() -> None:
    rising = np.arange(10.0)
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -np.exp(rising)) == pytest.approx(-1)
    assert rank_correlation(rising, np.ones(10)) == 0
    # 1, 2.5, 2.5, 4 against 1, 3, 2, 4
    assert rank_correlation(np.array([1, 2, 2, 3]), np.array([1, 3, 2, 4])) == pytest.approx(4.5 / np.sqrt(22.5))


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("(float[N, 3] x) => (float[N, 4] y) { y = Gemm<transB = 1>(x, w) }", (4, 3)),
        ("(float[N, 3] x) => (float[N, 4] y) { a = MatMul(x, w) b = Add(a, c) y = Softmax(b) }", (3, 4)),
        (
            "(float[N, 3, 5, 5] x) => (float[N, 4] y) { a = Conv(x, w) b = Relu(a) p = GlobalAveragePool(b) "
            "y = Flatten(p) }",
            (4, 3, 1, 1),
        ),
    ],
)
def test_weights_of_classes_are_found_behind_what_follows_them(text: str, shape: tuple[int, ...]) -> None:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    weights = np.arange(12, dtype=np.float32).reshape(shape)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "c"))
    found = class_weights(model, 4)
    assert found is not None
    np.testing.assert_array_equal(found, weights.T if shape == (3, 4) else weights.reshape(4, 3))
    assert class_weights(model, 5) is None


def test_no_weights_of_classes_where_none_lead_to_the_output() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = Sigmoid(x) }"
    assert class_weights(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), 4) is None
