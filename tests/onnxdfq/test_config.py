"""What a run can be told about bits and learning, and what excludes what: one line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxdfq.config import IMAGES_SHARE, Options, bits_in_name
from onnxdfq.errors import OnnxdfqError
from onnxdfq.recipes import RECIPES
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
    "an unknown recipe": (
        {"recipe": "slow"},
        "--recipe slow is not known. choose from fast, balanced, accurate, qimera, adadfq, gdfq",
    ),
    "an unknown placement": (
        {"placement": "mine"}, "--placement mine is not known. choose from target, paper"
    ),
    "the papers without activations": (
        {"placement": "paper", "act_bits": None}, "--placement paper and --act-bits none exclude each other"
    ),
    "the papers and a plan": (
        {"placement": "paper", "plan": PLAN}, "--placement paper and --plan exclude each other. leave one of them out"
    ),
    "the papers and pairs": (
        {"placement": "paper", "bits": (4, 8)},
        "--placement paper has the same bits in every layer. give --bits as one number",
    ),
    "the papers and a share": (
        {"placement": "paper", "size_budget": 0.1}, "--placement paper has the same bits in every layer"
    ),
    "the papers and an average": (
        {"placement": "paper", "avg_bits": 4.5}, "--placement paper has the same bits in every layer"
    ),
    "iterations where nothing learns": (
        {"iterations": 10}, "--iterations is for recipes that learn. give --recipe accurate, qimera, adadfq, gdfq"
    ),
    "epochs where nothing learns": ({"epochs": 1.0}, "--epochs is for recipes that learn"),
    "a log of nothing": ({"log": Path("x"), "recipe": "fast"}, "--log is for recipes that learn"),
    "checkpoints of nothing": ({"checkpoints": Path("x")}, "--checkpoints is for recipes that learn"),
    "epochs of blocks": (
        {"recipe": "accurate", "epochs": 1.0}, "--epochs are those of published schedules. give --iterations"
    ),
    "iterations and epochs": (
        {"recipe": "qimera", "iterations": 10, "epochs": 1.0},
        "--iterations and --epochs exclude each other. give one of them",
    ),
    "iterations and time": (
        {"recipe": "accurate", "iterations": 10, "time_budget": 60.0},
        "--iterations and --time-budget exclude each other. give one of them",
    ),
    "epochs and time": (
        {"recipe": "gdfq", "epochs": 1.0, "time_budget": 60.0}, "--epochs and --time-budget exclude each other"
    ),
    "no iterations": (
        {"recipe": "accurate", "iterations": 0}, "--iterations 0 is no length of training. give more than 0"
    ),
    "fewer than none": ({"recipe": "accurate", "iterations": -3}, "--iterations -3 is no length of training"),
    "no epochs": ({"recipe": "adadfq", "epochs": 0.0}, "--epochs 0 is no length of training"),
    "endless epochs": ({"recipe": "adadfq", "epochs": float("inf")}, "--epochs inf is no length of training"),
    "epochs that are no number": ({"recipe": "adadfq", "epochs": float("nan")}, "--epochs nan is no length"),
    "checkpoints by the clock": (
        {"recipe": "accurate", "checkpoints": Path("x"), "time_budget": 60.0},
        "no run can go on from checkpoints whose length the clock chose. give --iterations instead of --time-budget",
    ),
    "unknown scales": ({"scales": "l1"}, "--scales l1 is not known. choose from min-max, mse, lp"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_line(case: str) -> None:
    options, said = WRONG[case]
    with pytest.raises(OnnxdfqError) as caught:
        Options(**options)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_how_long_recipes_learn() -> None:
    assert [Options(recipe=name).learns for name in ("fast", "balanced")] == [0, 0]
    assert Options(recipe="accurate").learns == RECIPES["accurate"].iterations > 0
    assert Options(recipe="accurate", iterations=7).learns == 7
    assert Options(recipe="qimera", epochs=2.5).learns == 500
    assert Options(recipe="qimera", epochs=0.001).learns == 1
    assert Options(recipe="accurate", time_budget=60.0).learns is None


def test_a_time_budget_is_shared_by_images_and_learning() -> None:
    assert Options(recipe="balanced", time_budget=60.0).seconds_for_images == 60
    assert Options(recipe="accurate", time_budget=60.0).seconds_for_images == pytest.approx(60 * IMAGES_SHARE)
    assert Options(recipe="accurate").seconds_for_images is None


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_without_learning_is_one_that_learns_nothing(name: str) -> None:
    learns = bool(RECIPES[name].tuning)
    given = {"iterations": 5, "log": Path("x"), "checkpoints": Path("y")} if learns else {}
    options = Options(recipe=name, seed=3, **given).without_learning()
    assert not options.way.tuning
    assert (options.iterations, options.epochs, options.log, options.checkpoints) == (None, None, None, None)
    assert options.seed == 3


def test_the_papers_quantize_every_layer_alike() -> None:
    assert Options(placement="paper").every_layer
    assert Options(all_layers=True).every_layer
    assert not Options().every_layer


def test_images_of_the_user_leave_a_time_budget_to_learning() -> None:
    assert Options(recipe="accurate", images=Path("x"), time_budget=60.0).learns is None
    with pytest.raises(OnnxdfqError, match="--time-budget is for synthetic images"):
        Options(images=Path("x"), time_budget=60.0)


def test_the_bits_in_the_name_of_a_file() -> None:
    assert [bits_in_name(each) for each in (8, 4, (2, 6))] == ["8", "4", "2-6"]
    assert bits_in_name(8, avg_bits=4.5) == "4.5"
    assert bits_in_name(8, avg_bits=4.0) == "4"
    assert bits_in_name(8, size_budget=0.15) == "4.8"
    assert bits_in_name(8, size_budget=0.9) == "8"  # no weight has more
