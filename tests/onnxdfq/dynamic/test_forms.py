"""The two forms that programs use, a session and one file, give equal answers; and what they give is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxdfq.dynamic.bundle import SINGLE
from onnxdfq.dynamic.cascade import NEVER, Cascade
from onnxdfq.dynamic.confidence import margins
from onnxdfq.dynamic.session import DynamicSession
from tests.onnxdfq.dynamic.conftest import images, level, router
from tests.passes.conftest import run

COUNT = 70  # more than go through at once


def one_by_one(folder: Path, x: np.ndarray) -> list[np.ndarray]:
    """What the single file says in plain ONNX Runtime: outputs, then levels."""
    session = onnxruntime.InferenceSession(folder / SINGLE, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"x": x[k : k + 1]}) for k in range(len(x))]
    return [np.concatenate(each) for each in zip(*found, strict=True)]


@pytest.mark.parametrize(
    "cascade",
    [Cascade((0, 1, 2), (0.5, 0.6)), Cascade((0, 2), (0.4,)), Cascade((1,), ()), Cascade((0, 1, 2), (NEVER, 0.0))],
)
def test_a_cascade(bundle, cascade: Cascade) -> None:
    models, x = [level(0.3, seed=1), level(0.1, seed=2), level(0)], images(COUNT)
    folder = bundle(models, cascade)
    answered = DynamicSession(folder).run(x)
    alone = [run(model, x) for model in models]
    expected = cascade.taken(np.stack([margins(outputs[0], probabilities=False) for outputs in alone]))
    np.testing.assert_array_equal(answered.levels, expected)
    y, features, chosen = one_by_one(folder, x)
    np.testing.assert_array_equal(chosen, expected)
    for place, (name, single) in enumerate({"y": y, "features": features}.items()):
        own = np.stack([alone[number][place][row] for row, number in enumerate(expected)])
        np.testing.assert_allclose(answered.outputs[name], own, atol=1e-5)
        np.testing.assert_allclose(single, own, atol=1e-5)


def test_images_of_a_cascade_go_through_several_levels(bundle) -> None:
    levels = DynamicSession(bundle([level(0.3), level(0)], Cascade((0, 1), (0.5,)))).run(images(COUNT)).levels
    assert 5 < (levels == 0).sum() < COUNT - 5


@pytest.mark.parametrize("leaning", [(0.0, 0.0, 0.0), (0.2, 0.0, -0.1), (9.0, 0.0, 0.0)])
def test_a_router(bundle, leaning: tuple[float, ...]) -> None:
    models, x = [level(0.3, seed=1), level(0.1, seed=2), level(0)], images(COUNT)
    folder = bundle(models, None, leaning)
    answered = DynamicSession(folder).run(x)
    expected = (run(router(3), x)[0] + np.array(leaning, np.float32)).argmax(1)
    np.testing.assert_array_equal(answered.levels, expected)
    y, _, chosen = one_by_one(folder, x)
    np.testing.assert_array_equal(chosen, expected)
    np.testing.assert_allclose(y, answered.outputs["y"], atol=1e-5)


def test_probabilities_are_taken_as_they_are(bundle) -> None:
    models, x = [level(0.3, softmax=True), level(0, softmax=True)], images(COUNT)
    folder = bundle(models, Cascade((0, 1), (0.4,)), probabilities=True)
    answered = DynamicSession(folder).run(x)
    best = np.sort(run(models[0], x)[0], axis=1)
    np.testing.assert_array_equal(answered.levels, np.where(best[:, -1] - best[:, -2] >= 0.4, 0, 1))
    np.testing.assert_array_equal(one_by_one(folder, x)[2], answered.levels)


def test_levels_of_different_opsets_go_into_one_file(bundle) -> None:
    folder = bundle([level(0.3, opset=21), level(0, opset=17)], Cascade((0, 1), (0.5,)))
    x = images(20)
    np.testing.assert_array_equal(one_by_one(folder, x)[2], DynamicSession(folder).run(x).levels)
    onnx.checker.check_model(str(folder / SINGLE), full_check=True)


def test_a_model_that_insists_on_a_batch_gets_full_ones(bundle) -> None:
    free = [level(0.3), level(0)]
    fixed = [level(0.3, batch="4"), level(0, batch="4")]
    cascade, x = Cascade((0, 1), (0.5,)), images(10)
    expected = DynamicSession(bundle(free, cascade)).run(x)
    answered = DynamicSession(bundle(fixed, cascade, batch=4)).run(x)
    np.testing.assert_array_equal(answered.levels, expected.levels)
    np.testing.assert_allclose(answered.outputs["y"], expected.outputs["y"], atol=1e-5)


def test_equal_weights_stand_in_one_file_once(bundle) -> None:
    same, other = level(0), level(0.2)
    first, second = (bundle([one, level(0)], Cascade((0, 1), (0.5,))) for one in (same, other))
    del first
    twice = (second / SINGLE).stat().st_size
    once = (bundle([same, level(0)], Cascade((0, 1), (0.5,))) / SINGLE).stat().st_size
    assert twice - once > 16 * 27 * 4 - 100  # a kernel of the convolution
