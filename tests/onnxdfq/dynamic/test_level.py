"""Levels from what a user writes."""

from __future__ import annotations

import pytest

from onnxdfq.config import Options
from onnxdfq.dynamic.level import Level, read_levels
from onnxdfq.errors import OnnxdfqError


def test_levels_are_sorted_by_their_bits() -> None:
    assert [level.name for level in read_levels((8, "fp32", 4))] == ["4", "8", "fp32"]
    assert [level.name for level in read_levels((6, 4.5), averages=True)] == ["4.5", "6"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((8,), "two to four that differ"),
        ((8, 8), "two to four that differ"),
        ((2, 3, 4, 5, 6), "two to four that differ"),
        ((1, 8), "a level of 1 bits"),
        ((4.5, 8), "a level of 4.5 bits"),
        ((4, "int8"), "int8 is no level"),
    ],
)
def test_what_is_no_choice_of_levels_is_refused(parts, said: str) -> None:
    with pytest.raises(OnnxdfqError, match=said):
        read_levels(parts)


def test_a_level_has_as_many_bits_for_activations() -> None:
    base = Options(recipe="dynadfq", targets=("ort-cpu",), seed=3)
    made = Level("4", bits=4).options(base)
    assert (made.bits, made.act_bits, made.recipe, made.seed) == (4, 4, "balanced", 3)
    mixed = Level("4.5", average=4.5).options(base)
    assert (mixed.avg_bits, mixed.act_bits) == (4.5, 5)


def test_levels_learn_where_iterations_are_given() -> None:
    base = Options(recipe="dynadfq", targets=("ort-cpu",), iterations=7)
    made = Level("4", bits=4).options(base)
    assert (made.recipe, made.learns) == ("accurate", 7)
