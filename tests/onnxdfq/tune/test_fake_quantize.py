"""Quantizers that learn: the numbers are those of QuantizeLinear and DequantizeLinear, the gradients those of LSQ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from onnxdfq.engine.ort import Session
from onnxdfq.tune.fake_quantize import INSIDE, FakeQuantize, LearnedRange, LearnedWeights


def on_runtime(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int = 0, codes=None) -> np.ndarray:
    """Clip to what ``codes`` stand for, if given, then Q and DQ."""
    held, nodes, source = {"s": scale, "z": zero}, [], "x"
    if codes is not None:
        held |= {name: np.float32((code - int(zero)) * scale) for name, code in zip("lh", codes, strict=True)}
        nodes, source = [helper.make_node("Clip", ["x", "l", "h"], ["c"])], "c"
    nodes += [
        helper.make_node("QuantizeLinear", [source, "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    ends = [helper.make_tensor_value_info(name, 1, x.shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(v, k) for k, v in held.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Session(model).run({"x": x})["y"]


def numbers(scale: float) -> np.ndarray:
    """Random ones, every tie from far below to far above the codes of a byte, and what is far beyond them."""
    ties = (np.arange(-400, 400) + 0.5) * scale
    return np.concatenate([np.random.default_rng(0).normal(0, 90 * scale, 2000), ties, [-1e6, 0, 1e6]]).astype("f")


@pytest.mark.parametrize("scale", [0.25, 0.0371])
@pytest.mark.parametrize(
    ("zero", "codes"),
    [(np.uint8(0), (0, 255)), (np.uint8(131), (0, 255)), (np.int8(-5), (-128, 127)),
     (np.uint8(0), (0, 15)), (np.uint8(6), (0, 15)), (np.int8(0), (-4, 3))],
)  # fmt: skip
def test_ranges_compute_what_the_runtime_does(scale: float, zero: np.integer, codes: tuple[int, int]) -> None:
    few = codes[1] - codes[0] < 255
    x, step = numbers(scale), np.float32(scale)
    expected = on_runtime(x, step, np.array(zero), codes=codes if few else None)
    computed = LearnedRange(float(step), codes[0] - int(zero), codes[1] - int(zero))(torch.from_numpy(x))
    assert len(np.unique(expected)) > 0.8 * (codes[1] - codes[0] + 1)
    assert {expected.min(), expected.max()} == {np.float32((code - int(zero)) * step) for code in codes}
    np.testing.assert_allclose(computed.detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weights_compute_what_the_runtime_does(axis: int | None) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (6, 5, 3, 3)).astype("f")
    channels = 1 if axis is None else weights.shape[axis]
    scale = rng.uniform(0.005, 0.02, channels).astype("f")
    step = scale if axis is not None else scale[0]
    zero = np.zeros_like(step, dtype=np.int8)
    expected = on_runtime(weights, np.array(step), np.array(zero), axis or 0)
    made = LearnedWeights(torch.from_numpy(weights), torch.from_numpy(np.array(step)), axis, -128, 127)()
    np.testing.assert_allclose(made.detach().numpy(), expected, rtol=1e-5)
    assert np.abs(expected).max() < np.abs(weights).max(), "something saturates"


def lsq(x: np.ndarray, scale: float, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """dy/dx and dy/ds by the formula of the paper, number by number."""
    steps = x / scale
    inside = (np.rint(steps) >= low) & (np.rint(steps) <= high)
    to_scale = np.where(inside, np.rint(steps) - steps, np.where(steps < low, low, high))
    return inside.astype(float), to_scale


@pytest.mark.parametrize(("low", "high"), [(-8, 7), (0, 15)])
def test_gradients_are_those_of_lsq(low: int, high: int) -> None:
    rng = np.random.default_rng(0)
    x, upstream = rng.normal(0, 3, (4, 7)), rng.normal(0, 1, (4, 7))
    values, scale = torch.tensor(x, requires_grad=True), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    FakeQuantize.apply(values, scale, low, high).backward(torch.tensor(upstream))
    to_x, to_scale = lsq(x, 0.4, low, high)
    assert 0 < to_x.mean() < 1
    np.testing.assert_allclose(values.grad, upstream * to_x)
    assert float(scale.grad) == pytest.approx((upstream * to_scale).sum())


def test_gradients_of_one_scale_for_each_channel() -> None:
    rng = np.random.default_rng(0)
    x, upstream, scales = rng.normal(0, 3, (3, 50)), rng.normal(0, 1, (3, 50)), np.array([0.2, 0.5, 0.9])
    scale = torch.tensor(scales[:, None], requires_grad=True)
    FakeQuantize.apply(torch.tensor(x), scale, -4, 3).backward(torch.tensor(upstream))
    expected = [(upstream[k] * lsq(x[k], scales[k], -4, 3)[1]).sum() for k in range(3)]
    np.testing.assert_allclose(scale.grad[:, 0], expected)


def test_settled_weights_keep_their_codes_and_stand_inside() -> None:
    rng = np.random.default_rng(0)
    each = LearnedWeights(torch.tensor(rng.normal(0, 1, (4, 200))), torch.tensor(rng.uniform(0.2, 0.6, 4)), 0, -4, 3)
    with torch.no_grad():
        each.growth.add_(torch.tensor(rng.normal(0, 0.2, each.growth.shape)))
    before, places = each().detach(), (each.steps / each.growth.exp()).detach()
    each.settle()
    torch.testing.assert_close(each().detach(), before, rtol=0, atol=0)
    after = (each.steps / each.growth.exp()).detach()
    codes = before / each.scale.detach()
    assert float((after - codes).abs().max()) < INSIDE + 1e-6
    near = (places - codes).abs() <= INSIDE
    assert 0 < near.double().mean() < 1
    torch.testing.assert_close(after[near], places[near])


def test_a_follower_has_the_scale_of_the_other_now_and_later() -> None:
    one, other = LearnedRange(0.5, 0, 15), LearnedRange(0.5, 0, 15)
    other.follow(one)
    with torch.no_grad():
        one.growth.add_(0.3)
    assert other.scale.item() == one.scale.item() == pytest.approx(0.5 * np.exp(0.3))
    (alone,) = torch.autograd.grad(one(torch.ones(3)).sum(), one.growth)
    (one(torch.ones(3)).sum() + other(torch.ones(3)).sum()).backward()
    assert one.growth.grad.item() == pytest.approx(2 * alone.item())
    assert alone.item() != 0
