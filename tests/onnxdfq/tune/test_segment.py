"""A part of a graph gives what the whole has in its place."""

from __future__ import annotations

import pytest
import torch

from onnxdfq.engine.lower import lower, tap
from onnxdfq.tune.segment import between
from tests.onnxdfq.tune.planned import Planned, planned
from tests.onnxdfq.tune.test_student import LIMITS, RESIDUAL, SIZES


@pytest.fixture(scope="module")
def made() -> Planned:
    return planned(RESIDUAL, **SIZES, **LIMITS)


@pytest.mark.parametrize("ends", [("x", "r"), ("r", "t"), ("t", "p"), ("p", "y"), ("r", "y"), ("x", "y")])
@pytest.mark.parametrize("quantized", [False, True])
@torch.no_grad()
def test_values_are_those_of_the_whole(made: Planned, ends: tuple[str, str], quantized: bool) -> None:
    start, end = ends
    whole = made.student().module if quantized else lower(made.model, trainable=False, input_shapes=made.shapes)
    x = torch.from_numpy(made.x)
    kept = x.clone()
    _, found = tap(whole, [start, end])(x)
    wanted, given = found[end].clone(), found[start].clone()
    torch.testing.assert_close(between(whole, start, end)(given), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(given, tap(whole, [start])(x)[1][start], rtol=0, atol=0, msg="its input was changed")
    torch.testing.assert_close(x, kept, rtol=0, atol=0)


def test_parameters_are_shared(made: Planned) -> None:
    student = made.student()
    part = between(student.module, "r", "t")
    held = {id(each) for each in part.modules()}
    assert {name for name, each in student.weights.items() if id(each) in held} == {"w2", "w3"}
    assert id(student.ranges["d"]) in held
    parameters = {id(each) for each in part.parameters()}
    assert {name for name, each in student.biases.items() if id(each) in parameters} == {"b2", "b3"}
