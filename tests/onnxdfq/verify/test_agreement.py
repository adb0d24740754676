"""How far two models are apart, in figures that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdfq.engine.ort import Session
from onnxdfq.verify.agreement import Agreement, agreement, decibels, is_scores, kl

RNG = np.random.default_rng(0)


def session(text, **initializers):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
    onnx.checker.check_model(model)
    return Session(model)


def batches(*sizes, features=5):
    return [{"x": RNG.standard_normal((size, features)).astype(np.float32)} for size in sizes]


CLASSIFIER = "g (float[N,5] x) => (float[N,4] y) { y = MatMul (x, w) }"
W = RNG.standard_normal((5, 4)).astype(np.float32)


def softmax(scores):
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


@pytest.mark.parametrize(
    "text",
    [
        CLASSIFIER,
        "g (float[N,5] x) => (float[N,4] y) { s = MatMul (x, w) y = Softmax (s) }",
        "g (float[N,5] x) => (float[N,4,1,1] y, float[N,4] h) { h = MatMul (x, w) y = Unsqueeze (h, a) }",
    ],
)
def test_a_model_agrees_with_itself(text):
    models = [session(text, w=W, a=np.array([2, 3])) if "Unsqueeze" in text else session(text, w=W) for _ in range(2)]
    found = agreement(*models, {"held out": batches(3, 4)})
    assert (found.images, found.top1, found.kl) == (7, 100, 0)
    assert set(found.sqnr.values()) == {200}
    assert list(found.sqnr) == models[0].outputs


def test_figures_are_those_of_numpy_over_batches_of_unequal_size():
    other = W + 0.4 * RNG.standard_normal(W.shape).astype(np.float32)
    given = batches(3, 8, 1)
    found = agreement(session(CLASSIFIER, w=W), session(CLASSIFIER, w=other), {"held out": given})
    x = np.concatenate([each["x"] for each in given]).astype(np.float64)
    first, second = x @ W, x @ other
    p, q = softmax(first), softmax(second)
    assert found.images == 12
    assert found.top1 == pytest.approx(100 * np.mean(first.argmax(1) == second.argmax(1)))
    assert 0 < found.top1 < 100
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-4)
    ratio = 10 * np.log10((first**2).sum() / ((first - second) ** 2).sum())
    assert found.sqnr == {"y": pytest.approx(ratio, rel=1e-4)}


def test_each_kind_of_image_is_counted_for_itself():
    flipped = session("g (float[N,5] x) => (float[N,4] y) { a = Abs (x) y = MatMul (a, w) }", w=W)
    positive = [{"x": np.abs(each["x"])} for each in batches(6)]
    negative = [{"x": -each["x"] - 1} for each in positive]
    found = agreement(session(CLASSIFIER, w=W), flipped, {"easy": positive, "hard": negative})
    assert found.images == 12
    assert found.kinds["easy"] == 100
    assert found.kinds["hard"] < 100
    assert found.top1 == pytest.approx((found.kinds["easy"] + found.kinds["hard"]) / 2)
    assert f"at the same class (easy 100 %, hard {found.kinds['hard']:.0f} %)" in found.in_words()
    one = agreement(session(CLASSIFIER, w=W), flipped, {"easy": positive})
    assert one.kinds == {}


def test_all_wrong_is_0_percent():
    found = agreement(session(CLASSIFIER, w=W), session(CLASSIFIER, w=-W), {"held out": batches(20)})
    assert found.top1 == 0
    assert found.kl > 0.1


def test_outputs_are_compared_by_name_and_integers_are_not():
    text = """g (float[N,5] x) => (float[N,5] {0}, float[N,5] {1}, int64[N] k) {{
        a = Abs (x) b = Neg (x) k = ArgMax <axis = 1, keepdims = 0> (x)
    }}"""
    found = agreement(session(text.format("a", "b")), session(text.format("b", "a")), {"held out": batches(4)})
    assert found.sqnr == {"a": 200, "b": 200}


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,5] x) => (float[N] y) { y = ReduceMean <axes = [1], keepdims = 0> (x) }",
        "g (float[N,5] x) => (float[N,1] y) { y = ReduceMean <axes = [1]> (x) }",
        "g (float[N,5] x) => (float[N,5,5] y) { c = Unsqueeze (x, two) r = Unsqueeze (x, one) y = Mul (c, r) }",
        "g (float[N,5] x) => (int64[N,1] k, float[N,5] y) { k = ArgMax <axis = 1> (x) y = Abs (x) }",
    ],
)
def test_what_is_no_vector_of_scores_has_no_top1_and_is_ranked_by_noise(text):
    axes = {"one": np.array([1]), "two": np.array([2])} if "one" in text else {}
    model = session(text, **axes)
    found = agreement(model, model, {"held out": batches(3)})
    assert (found.top1, found.kl) == (None, None)
    assert found.sqnr == {"y": 200}
    assert found.distance == -200


def test_the_distance_is_smaller_for_the_closer_model():
    exact = session(CLASSIFIER, w=W)
    given = {"held out": batches(16)}
    noise = RNG.standard_normal(W.shape).astype(np.float32)
    distances = [agreement(exact, session(CLASSIFIER, w=W + k * noise), given).distance for k in (0, 0.05, 0.3, 1)]
    assert distances == sorted(distances)
    assert distances[0] == 0
    assert Agreement(1, None, None, {"y": 30.0, "z": 10.0}).distance == -20
    assert Agreement(1, None, None, {"y": 40.0}).distance < Agreement(1, None, None, {"y": 30.0}).distance


@pytest.mark.parametrize(("shape", "scores"), [((2, 10), True), ((2, 10, 1, 1), True), ((2, 1), False), ((2,), False),
                                               ((2, 10, 2), False), ((2, 1, 10), False)])  # fmt: skip
def test_what_counts_as_scores(shape, scores):
    assert is_scores(np.zeros(shape)) is scores


def test_kl_is_zero_for_equal_positive_for_different_and_takes_probabilities_as_they_are():
    scores, others = RNG.standard_normal((6, 9)), RNG.standard_normal((6, 9))
    assert kl(scores, scores) == 0
    assert kl(scores, scores + 5) == pytest.approx(0, abs=1e-12)  # a softmax does not see what all scores share
    assert kl(scores, others) > 0
    assert kl(softmax(scores), softmax(others)) == pytest.approx(kl(scores, others))
    assert kl(scores, others) != pytest.approx(kl(others, scores))


def test_kl_stays_finite_for_certain_answers_and_large_scores():
    certain = np.eye(4)
    assert np.isfinite(kl(certain, np.roll(certain, 1, 1)))
    assert kl(certain, certain) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(kl(np.float64([[1e4, -1e4]]), np.float64([[-1e4, 1e4]])))


def test_decibels():
    assert decibels(100, 1) == pytest.approx(20)
    assert decibels(1, 10) == pytest.approx(-10)
    assert decibels(1, 0) == 200
    assert decibels(0, 0) == 200
    assert np.isfinite(decibels(0, 1))
