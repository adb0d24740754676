"""What is demanded of a result: what holds, what is said of what does not, and the exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from onnxdfq import run
from onnxdfq.cli import main
from onnxdfq.errors import OnnxdfqError
from onnxdfq.gate import Gate


def report(top1: float | None, before: float | None = None, after: float | None = None):
    target = SimpleNamespace(agreement=SimpleNamespace(top1=top1), accuracy=after)
    return SimpleNamespace(targets={"ort-cpu": target}, accuracy=before)


@pytest.mark.parametrize(
    ("gate", "found", "said"),
    [
        (Gate(), report(10.0), ""),
        (Gate(98.0), report(98.0), ""),
        (Gate(98.0), report(97.0), "97.0 % of held-out images keep their class, 98 % are wanted"),
        (Gate(None, 2.0), report(98.0), ""),
        (Gate(None, 2.0), report(97.0), "3.0 % of held-out images lose their class, 2 % may"),
        (Gate(None, 2.0), report(90.0, 91.0, 89.5), ""),
        (Gate(None, 1.0), report(99.9, 91.0, 89.5), "1.50 points of top-1 lost, 1 allowed"),
        (Gate(95.0, 2.0), report(94.0, 91.0, 91.0), "94.0 % of held-out"),
        (Gate(98.0), report(None), "is no classifier"),
    ],
)
def test_what_is_missed_is_said(gate: Gate, found, said: str) -> None:
    missed = gate.missed(found)
    assert (said in missed) if said else not missed


def test_both_together_want_the_stricter_on_held_out_images() -> None:
    assert Gate(95.0, 2.0).held_out == 98
    assert Gate(99.0, 2.0).held_out == 99
    assert not Gate()


@pytest.mark.parametrize(("values", "said"), [((0.0, None), "no percentage"), ((None, -1.0), "no number of points")])
def test_numbers_that_mean_nothing(values, said: str) -> None:
    with pytest.raises(OnnxdfqError, match=said):
        Gate(*values)


DIGITS = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"


@pytest.fixture
def some(quick, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough images that few bits make some of them lose their class."""
    monkeypatch.setattr(run, "MOST_IMAGES", 48)


def quantized(*more: object) -> int:
    given = ["quantize", DIGITS, "--recipe", "fast", "--target", "ort-cpu", "--quiet", "--rounding", "nearest", *more]
    return main([str(each) for each in given])


def test_the_exit_code_says_that_it_is_not_good_enough(some, tmp_path: Path, capsys) -> None:
    made = tmp_path / "made.onnx"
    assert quantized("--bits", "2", "--min-agreement", "99", "-o", made) == 4
    assert capsys.readouterr().err.startswith("onnxdfq: not good enough: ort-cpu: ")
    assert made.exists()
    assert quantized("--min-agreement", "1", "-o", made) == 0


def test_layers_are_rolled_back_until_it_holds(some, tmp_path: Path) -> None:
    made, said = tmp_path / "made.onnx", tmp_path / "report.json"
    few = ("--bits", "2", "--no-bias-correction", "-o", made, "--report", said)
    assert quantized(*few, "--min-agreement", "90") == 4
    assert json.loads(said.read_text())["rolled_back"] is None
    assert quantized(*few, "--min-agreement", "90", "--rollback") == 0
    found = json.loads(said.read_text())
    rolled, target = found["rolled_back"], found["targets"]["ort-cpu"]
    floats = [name for name, kind in rolled.items() if kind == "float"]
    wide = [name for name, kind in rolled.items() if kind == "8 bits"]
    assert 0 < len(rolled) < target["of"]
    assert target["layers"] == target["of"] - len(floats)
    assert all(target["bits"][name] == 8 for name in wide)
    assert target["agreement"]["top1"] >= 90
    assert found["notices"][0].startswith(f"{len(wide)} put back to 8 bits")
    assert quantized("-o", made, "--report", said, "--min-agreement", "1", "--rollback") == 0
    assert json.loads(said.read_text())["rolled_back"] == {}


def test_where_nothing_is_enough_the_nearest_is_taken(some, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "held_out", 101.0)  # percent, which no CPU reaches
    made, said = tmp_path / "made.onnx", tmp_path / "report.json"
    few = ("--bits", "2", "--no-bias-correction", "-o", made, "--report", said)
    assert quantized(*few, "--min-agreement", "50", "--rollback") == 0
    found = json.loads(said.read_text())
    tried = [float(share) for share in re.findall(r"([\d.]+) % with", found["notices"][0])]
    assert len(tried) > 2
    assert found["targets"]["ort-cpu"]["agreement"]["top1"] == pytest.approx(max(tried), abs=0.05)
    assert "which nothing reached" in found["notices"][0]


def test_a_budget_is_settled_before_layers_are_put_back(some, tmp_path: Path) -> None:
    made, said = tmp_path / "made.onnx", tmp_path / "report.json"
    assert quantized("--size-budget", "0.1", "-o", made, "--report", said) == 0
    before = json.loads(said.read_text())["targets"]["ort-cpu"]["bits"]
    code = quantized("--size-budget", "0.1", "-o", made, "--report", said, "--min-agreement", "97", "--rollback")
    assert code in (0, 4)
    found = json.loads(said.read_text())
    after = found["targets"]["ort-cpu"]["bits"]
    assert found["rolled_back"]
    assert all(after[layer] == bits for layer, bits in before.items() if layer not in found["rolled_back"])


def test_float_comes_first_where_activations_have_few_bits(some, tmp_path: Path) -> None:
    made, said = tmp_path / "made.onnx", tmp_path / "report.json"
    few = ("--bits", "4", "--act-bits", "2", "--all-layers", "--no-bias-correction", "-o", made, "--report", said)
    assert quantized(*few, "--min-agreement", "80", "--rollback") == 0
    rolled = json.loads(said.read_text())["rolled_back"]
    assert set(rolled.values()) == {"float"}
    weights = {tensor.name for tensor in onnx.load(made).graph.initializer}
    by_name = {node.name: node for node in onnx.load(made).graph.node}
    assert all(by_name[name].input[1] in weights for name in rolled), "their weights are float initializers"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rollback"], "give --max-drop or --min-agreement"),
        (["--rollback", "--max-drop", "1", "--target", "tensorrt"], "--rollback is for one target"),
        (["--max-drop", "-1"], "no number of points"),
    ],
)
def test_mistakes(small: Path, quick, fails, arguments: list[str], said: str) -> None:
    assert said in fails("quantize", small, "--recipe", "fast", "--target", "ort-cpu", "--quiet", *arguments)
