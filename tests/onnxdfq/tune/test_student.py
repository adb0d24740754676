"""The quantized graph in torch computes what ONNX Runtime does, before and after it has learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnxdfq.tune.student import Student
from tests.onnxdfq.tune.planned import Planned, planned

RESIDUAL = """g (float[8,3,8,8] x) => (float[8,5] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    r = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
    d = Clip(c, zero, six)
    e = Conv(d, w3, b3)
    s = Add(e, r)
    t = Relu(s)
    p = GlobalAveragePool(t)
    f = Flatten(p)
    y = Gemm<transB = 1>(f, w4, b4)
}"""
SIZES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (8, 8, 1, 1), "b3": (8,),
         "w4": (5, 8), "b4": (5,)}  # fmt: skip
LIMITS = {"zero": np.float32(0), "six": np.float32(6)}
ENDS = """g (float[8,4,8,8] x) => (float[8,4,8,8] y) {
    a = Conv(x, w1) r = Relu(a) b = Conv(r, w2, b2) y = Conv(b, w3, b3)
}"""
OF_ENDS = {"w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1), "b2": (4,), "w3": (4, 4, 1, 1), "b3": (4,)}
POOLED = """g (float[8,4,8,8] x) => (float[8,4,2,2] y) {
    a = Conv(x, w1) r = Relu(a) b = Conv(r, w2, b2) c = Relu(b) m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)
    d = Conv(m, w3, b3) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d)
}"""


def residual(**options) -> Planned:
    return planned(RESIDUAL, **options, **SIZES, **LIMITS)


@torch.no_grad()
def shaken(student: Student, by: float = 0.1) -> None:
    torch.manual_seed(0)
    growths = {id(each.growth): each.growth for each in [*student.weights.values(), *student.ranges.values()]}
    for growth in growths.values():
        growth.add_(by * torch.randn(growth.shape))
    for each in student.weights.values():
        each.steps.add_(5 * by * torch.randn(each.steps.shape))
    for bias in student.biases.values():
        bias.add_(by * torch.randn(bias.shape))


CASES = {
    "few bits": residual,
    "all layers": lambda: residual(all_layers=True, bits=3, act_bits=3),
    "eight bits": lambda: residual(bits=8, act_bits=8),
    "symmetric": lambda: residual(target="tensorrt"),
    "all in integers": lambda: residual(target="qnn"),
    "a quantized output": lambda: planned(ENDS, **OF_ENDS),
    "a shared scale": lambda: planned(POOLED, **OF_ENDS),
}


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_the_runtime_does_before_and_after_learning(case: str) -> None:
    made = CASES[case]()
    student = made.student()
    before = made.answer(student)
    np.testing.assert_allclose(before, made.on_runtime(made.model, made.plan), rtol=1e-4, atol=1e-5)
    shaken(student)
    after = made.answer(student)
    assert np.abs(after - before).mean() > 0.01 * before.std()
    np.testing.assert_allclose(after, made.on_runtime(*student.learned()), rtol=1e-4, atol=1e-5)


def test_every_tensor_of_the_plan_has_a_quantizer() -> None:
    for case in CASES.values():
        made = case()
        student = made.student()
        assert student.weights.keys() | student.ranges.keys() == made.plan.tensors.keys()
        assert student.weights.keys().isdisjoint(student.ranges)


@pytest.mark.parametrize("growth", [-0.7, 0.7])
def test_a_quantizer_that_outgrows_its_clip_ends_where_the_clip_did(growth: float) -> None:
    made = planned(RESIDUAL, **(SIZES | {"b2": np.full(8, 3, np.float32)}), **LIMITS)
    student = made.student()
    assert made.plan.tensors["d"].bits == 4
    with torch.no_grad():
        student.ranges["d"].growth.add_(growth)
        highest = 15 * float(student.ranges["d"].scale)
    assert (highest > 6) is (growth > 0)
    np.testing.assert_allclose(made.answer(student), made.on_runtime(*student.learned()), rtol=1e-4, atol=1e-5)


def test_what_was_learned_stands_on_its_grids() -> None:
    made = residual(bits=3, all_layers=True)
    student = made.student()
    shaken(student)
    model, plan = student.learned()
    held = {each.name: each for each in model.graph.initializer}
    for name in student.weights:
        values = np.frombuffer(held[name].raw_data, np.float32).reshape(held[name].dims)
        codes = values / np.float32(plan.tensors[name].scale).reshape(-1, *[1] * (values.ndim - 1))
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
        assert np.abs(codes).max() <= 4
    assert plan.readers == made.plan.readers
    assert [replace(each, scale=()) for each in plan.tensors.values()] == [
        replace(each, scale=()) for each in made.plan.tensors.values()
    ]


def test_nothing_learned_gives_the_plan_back() -> None:
    made = residual()
    _, plan = made.student().learned()
    for name, params in made.plan.tensors.items():
        assert plan.tensors[name].scale == pytest.approx(params.scale, rel=1e-6)


def test_groups_keep_one_scale() -> None:
    made = planned(POOLED, **OF_ENDS)
    groups = [group & made.plan.tensors.keys() for group in made.groups]
    assert max(map(len, groups)) > 1
    student = made.student()
    shaken(student)
    _, plan = student.learned()
    for group in groups:
        assert len({plan.tensors[name].scale for name in group}) == 1
    assert len({plan.tensors[name].scale for name in student.ranges}) > 1


def test_gradients_come_and_go() -> None:
    made = residual()
    student = made.student()
    assert not any(each.requires_grad for each in student.module.parameters())
    parameters = [student.weights["w2"].steps, student.ranges["r"].growth, student.biases["b2"]]
    with student.learning(parameters):
        student.module(torch.from_numpy(made.x))[0].square().sum().backward()
        assert all(float(each.grad.abs().sum()) > 0 for each in parameters)
        assert sum(each.requires_grad for each in student.module.parameters()) == 3
    assert not any(each.requires_grad or each.grad is not None for each in student.module.parameters())
