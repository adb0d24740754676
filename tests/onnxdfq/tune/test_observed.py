"""Quantizers that follow what they see: scales, gradients, and weights as they were before folding."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

from onnxdfq.emit import with_qdq
from onnxdfq.engine.lower import lower
from onnxdfq.tune.observed import KEPT, ObservedRange, ObservedStudent, ObservedWeights, fake_quantize

WEIGHTS = torch.tensor([[0.7, -0.2, 0.13], [-0.8, 0.1, 0.0]])
LEAST = torch.tensor([0.7 / 7, 0.8 / 8])


def test_the_gradient_passes_rounding_and_clamp_unchanged() -> None:
    x = torch.tensor([-9.0, 0.26, 40.0], requires_grad=True)
    y = fake_quantize(x, torch.tensor(0.5), -2, 3)
    torch.testing.assert_close(y, torch.tensor([-1.0, 0.5, 1.5]))
    y.backward(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("axis", [0, 1, None])
def test_scales_of_weights_are_the_least_that_clip_nothing(axis: int | None) -> None:
    weights = WEIGHTS.T.contiguous() if axis == 1 else WEIGHTS
    least = LEAST.max()[None] if axis is None else LEAST
    layer = ObservedWeights(weights, least, axis, -8, 7)
    torch.testing.assert_close(layer.scale.flatten(), least)
    on_grid = layer() / layer.scale
    torch.testing.assert_close(on_grid, on_grid.round())
    assert (layer() - weights).abs().max() <= least.max() / 2
    with torch.no_grad():
        layer.values *= 3
    torch.testing.assert_close(layer.scale.flatten(), 3 * least)


def test_a_scale_that_was_raised_for_a_bias_stays_there() -> None:
    layer = ObservedWeights(WEIGHTS, torch.tensor([0.5, LEAST[1]]), 0, -8, 7)
    torch.testing.assert_close(layer.scale.flatten(), torch.tensor([0.5, LEAST[1]]))


def test_a_step_is_one_in_the_weights_before_folding() -> None:
    gain = torch.tensor([2.0, -0.5])
    layer = ObservedWeights(WEIGHTS, LEAST, 0, -8, 7)
    before = layer()
    layer.unfold(gain, 0)
    torch.testing.assert_close(layer(), before)
    torch.testing.assert_close(layer.values, WEIGHTS / gain[:, None])
    layer().sum().backward()
    with torch.no_grad():
        layer.values -= 0.01 * layer.values.grad
    torch.testing.assert_close(layer.folded(), WEIGHTS - 0.01 * (gain**2)[:, None].expand_as(WEIGHTS))


def test_channels_that_a_normalization_has_switched_off_stay_as_they_are() -> None:
    layer = ObservedWeights(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), LEAST, 0, -8, 7)
    layer.unfold(torch.tensor([3.0, 0.0]), 0)
    assert layer.gain.flatten().tolist() == [3.0, 1.0]
    assert torch.isfinite(layer()).all()


def test_a_range_is_that_of_the_plan_until_it_is_told_to_observe() -> None:
    layer = ObservedRange(0.2, 0, 15)
    layer(torch.tensor([0.0, 100.0]))
    assert float(layer.scale) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("low", "high", "batches", "expected"),
    [
        (0, 15, [(0.0, 3.0)], 3 / 15),
        (0, 15, [(0.0, 3.0), (0.0, 6.0)], (KEPT * 3 + 6) / (KEPT + 1) / 15),
        (-8, 7, [(-4.0, 1.0)], 4 / 8),
        (-15, 0, [(-3.0, 0.0)], 3 / 15),
        (0, 15, [(0.0, 0.0)], 1e-10),
    ],
)
def test_a_range_is_the_corrected_mean_of_what_batches_reach(low, high, batches, expected) -> None:
    layer = ObservedRange(1.0, low, high)
    layer.observing = True
    for least, largest in batches:
        layer(torch.tensor([least, 0.0, largest]))
    assert float(layer.scale) == pytest.approx(expected, rel=1e-5)
    layer.observing = False
    layer(torch.tensor([-100.0, 100.0]))
    assert float(layer.scale) == pytest.approx(expected, rel=1e-5)


def test_constant_input_gives_its_own_range_from_the_first_batch_on() -> None:
    layer = ObservedRange(1.0, 0, 15)
    layer.observing = True
    for _ in range(40):  # the published formula is at 3945 times that after 21
        layer(torch.tensor([0.0, 1.0]))
        assert float(layer.scale) == pytest.approx(1 / 15, rel=1e-4)


def student_of(made) -> ObservedStudent:
    return ObservedStudent(made.model, made.plan, frozenset(), made.subject.into.shapes(4), torch.device("cpu"))


def test_the_student_computes_what_its_exported_graph_does(trainee) -> None:
    made = trainee()
    student = student_of(made)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    student.observe(True)
    student.module(x)
    student.observe(False)
    model, plan = student.learned()
    assert plan.tensors["r"].scale != made.plan.tensors["r"].scale
    assert plan.tensors["w1"].scale == pytest.approx(made.plan.tensors["w1"].scale, rel=1e-5)
    exported = lower(with_qdq(model, plan), trainable=False)
    torch.testing.assert_close(student.module(x)[0], exported(x)[0], rtol=1e-3, atol=1e-4)


def test_gains_leave_the_student_as_it_was_and_give_the_weights_before_folding(trainee) -> None:
    from onnxdfq.tune.in_turn import _unfold

    made = trainee()
    student, x = student_of(made), torch.ones(4, 3, 8, 8)
    before = student.module(x)[0]
    layers = [node for node in gs.import_onnx(made.model).nodes if node.name in ("first", "second", "last")]
    _unfold(student, layers, made.gains)
    torch.testing.assert_close(student.module(x)[0], before)
    held = {tensor.name: tensor for tensor in made.subject.model.graph.initializer}
    unfolded = torch.from_numpy(np.array(gs.import_onnx(made.subject.model).tensors()["w1"].values))
    alive = np.float32([1, -0.5, 2, 0, 1, 1, 0.1, 1]) != 0
    torch.testing.assert_close(student.weights["w1"].values[alive], unfolded[alive])
    assert "w1" in held
    assert (student.weights["w2"].gain == 1).all()


def test_what_shares_a_scale_shares_what_was_seen(trainee) -> None:
    student = student_of(trainee())
    student.observe(True)
    student.module(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    r, t = (student.ranges[name] for name in "rt")
    largest = max(float(r.seen[1]), float(t.seen[1]))
    assert not torch.equal(r.seen, t.seen)
    student.share([{"r", "t", "unknown"}, {"other"}])
    assert float(r.scale) == float(t.scale) == pytest.approx(largest / (1 - KEPT) / 15, rel=1e-4)
