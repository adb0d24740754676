"""What a run can be told about bits, and what excludes what: one line for every mistake."""

from __future__ import annotations

from typing import Any

import pytest

from onnxdfq.config import Options, bits_in_name
from onnxdfq.errors import OnnxdfqError
from passes.plan import QuantPlan
from passes.targets import ORT_CPU, QNN, TARGETS

PLAN = QuantPlan("tensorrt", {}, {}, ())


def test_eight_bits_of_everything_and_no_pairs_by_default() -> None:
    options = Options()
    assert (options.bits, options.act_bits, options.pairs, options.compensates) == (8, 8, None, "none")
    assert (options.rounding, options.scales, options.equalization) == (None, None, False)


@pytest.mark.parametrize("bits", [(2, 6), (4, 8), (3, 3), (2, 8)])
def test_pairs_are_compensated_unless_told_otherwise(bits: tuple[int, int]) -> None:
    options = Options(bits=bits)
    assert (options.pairs, options.compensates) == (bits, "dfmpc+")
    assert Options(bits=bits, compensation="dfmpc").compensates == "dfmpc"
    assert Options(bits=bits, compensation="none").compensates == "none"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_target_takes_activations_of_two_to_eight_bits(target: str, bits: int) -> None:
    options = Options(targets=(target,), act_bits=bits)
    assert options.target(target) is TARGETS[target]
    quiet = bits == 8
    assert (options.about_activations(target) == "") is quiet


def test_without_activations_any_target_takes_weights_alone() -> None:
    options = Options(targets=("ort-cpu", "qnn"), act_bits=None)
    assert [options.target(name).weights_only for name in options.targets] == [True, True]
    assert options.target("qnn").name == "qnn"
    assert not ORT_CPU.weights_only
    assert not QNN.weights_only
    assert options.about_activations("ort-cpu") == ""


def test_what_is_said_of_activations() -> None:
    few = Options(targets=("ort-cpu", "ort-cuda"), act_bits=4)
    assert "activations of 4 bits (ort-cpu) are 16 codes of uint8" in few.about_activations("ort-cpu")
    assert (
        few.about_activations("ort-cuda") == "ort-cuda keeps activations in float: --act-bits 4 changes nothing there"
    )
    assert Options(targets=("qnn",), act_bits=16).about_activations("qnn") == ""


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "too few bits": ({"bits": 1}, "--bits 1 is not supported. choose from 2 to 8"),
    "too many bits": ({"bits": 9}, "--bits 9 is not supported. choose from 2 to 8"),
    "a pair with too few": ({"bits": (1, 8)}, "--bits 1/8 is not supported. choose from 2 to 8"),
    "a pair with too many": ({"bits": (4, 16)}, "--bits 4/16 is not supported"),
    "a pair the wrong way round": ({"bits": (6, 2)}, "--bits 6/2 has the higher number first. give 2/6"),
    "activations of one bit": ({"act_bits": 1}, "--act-bits 1 is not supported. choose 2 to 8, 16 or none"),
    "activations of twelve bits": ({"act_bits": 12}, "--act-bits 12 is not supported"),
    "sixteen bits where there are none": (
        {"act_bits": 16, "targets": ("qnn", "ort-cpu")},
        "ort-cpu has no 16-bit activations. choose 2 to 8, none, or target qnn",
    ),
    "no share": ({"size_budget": 0.0}, "--size-budget 0 is no share. give one such as 0.15"),
    "all of it": ({"size_budget": 1.0}, "--size-budget 1 is no share"),
    "a share that is no number": ({"size_budget": float("nan")}, "--size-budget nan is no share"),
    "an average too low": ({"avg_bits": 1.9}, "--avg-bits 1.9 is not supported. choose from 2 to 8"),
    "an average too high": ({"avg_bits": 8.5}, "--avg-bits 8.5 is not supported"),
    "share and average": (
        {"size_budget": 0.1, "avg_bits": 4.0}, "--size-budget and --avg-bits exclude each other. give one of them"
    ),
    "bits and share": ({"size_budget": 0.1, "bits": (2, 6)}, "--bits and --size-budget exclude each other"),
    "bits and average": ({"avg_bits": 3.5, "bits": 4}, "--bits and --avg-bits exclude each other"),
    "bits and a plan": ({"plan": PLAN, "bits": 4}, "--plan and --bits exclude each other. edit the plan"),
    "activations and a plan": ({"plan": PLAN, "act_bits": None}, "--plan and --act-bits exclude each other"),
    "average and a plan": ({"plan": PLAN, "avg_bits": 4.0}, "--plan and --avg-bits exclude each other"),
    "scales and a plan": ({"plan": PLAN, "scales": "mse"}, "--plan and --scales exclude each other"),
    "compensation without pairs": (
        {"compensation": "dfmpc"}, "--compensation dfmpc is for pairs. give --bits LOW/HIGH, such as 4/8"
    ),
    "compensation of one kind of bits": ({"compensation": "none", "bits": 4}, "--compensation none is for pairs"),
    "an unknown compensation": (
        {"compensation": "more", "bits": (4, 8)}, "--compensation more is not known. choose from dfmpc, dfmpc+, none"
    ),
    "an unknown rounding": ({"rounding": "up"}, "--rounding up is not known. choose from nearest, squant, gptq"),
    "unknown scales": ({"scales": "l1"}, "--scales l1 is not known. choose from min-max, mse, lp"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_line(case: str) -> None:
    options, said = WRONG[case]
    with pytest.raises(OnnxdfqError) as caught:
        Options(**options)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_bits_in_the_name_of_a_file() -> None:
    assert [bits_in_name(each) for each in (8, 4, (2, 6))] == ["8", "4", "2-6"]
    assert bits_in_name(8, avg_bits=4.5) == "4.5"
    assert bits_in_name(8, avg_bits=4.0) == "4"
    assert bits_in_name(8, size_budget=0.15) == "4.8"
    assert bits_in_name(8, size_budget=0.9) == "8"  # no weight has more
