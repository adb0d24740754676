"""The command for a second try is one that the command line takes, and asks for the same."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from onnxdfq.cli import _parser
from onnxdfq.config import Options
from onnxdfq.images.aims import Aims
from onnxdfq.report.again import FLAGS, VALUES, again_as
from onnxdfq.report.report import Report


def command(**options: object) -> str:
    described = asdict(Options(**options))
    described = {name: str(value) if isinstance(value, Path) else value for name, value in described.items()}
    return again_as(Report("my model.onnx", 1, described), "ort-cpu")


def test_by_default_it_is_short() -> None:
    assert command(targets=("ort-cpu",)) == "onnxdfq quantize 'my model.onnx' --target ort-cpu"


CASES = [
    ({"bits": (4, 8)}, "--bits 4/8"),
    ({"bits": 4, "act_bits": None}, "--bits 4 --act-bits none"),
    ({"avg_bits": 4.5, "recipe": "accurate", "iterations": 40}, "--avg-bits 4.5 --recipe accurate --iterations 40"),
    ({"mean": (123.5, 116.0, 103.0), "std": (58.0, 57.0, 57.0), "order": "BGR"},
     "--mean 123.5,116,103 --std 58,57,57 --bgr"),
    ({"input_shape": (1, 3, 64, 48), "seed": 3, "all_layers": True}, "--input-shape 1x3x64x48 --seed 3 --all-layers"),
    ({"mean": (-1.0, 0.4850123), "std": (1.0, 0.5), "scale": 1 / 255},
     f"--mean=-1,0.4850123 --std 1,0.5 --scale {1 / 255!r}"),
    ({"bias_correction": False, "images": Path("mine")}, "--images mine --no-bias-correction"),
    ({"float_type": "float16"}, "--float-type fp16"),
    ({"aims": Aims(hard=0.3, swing=True)}, "--aim hard=0.3 --aim swing"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), CASES, ids=[said for _, said in CASES])
def test_what_was_asked_for_is_asked_for_again(options: dict, said: str) -> None:
    made = command(**options)
    assert made.partition(" --target ort-cpu ")[2] == said
    parsed = vars(_parser().parse_args(shlex.split(made)[1:]))
    for field, value in options.items():
        if field in parsed and field != "aims":
            assert parsed[field] == value


def test_every_option_on_which_a_result_hangs_is_known() -> None:
    elsewhere = {"targets", "device", "evaluate", "overrides", "plan", "cache", "log", "checkpoints", "details"}
    others = {"order", "bias_correction", "aims"}
    assert set(asdict(Options())) == VALUES.keys() | FLAGS.keys() | others | elsewhere
