"""`onnxdfq inspect --bits` shows what each layer would get, and the pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxdfq.cli import main
from onnxdfq.inspect import inspect


def words(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["inspect", *map(str, arguments)]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_bits_by_layer(small: Path) -> None:
    assert inspect(small, 3).targets["ort-cpu"]["bits"] == {"first": 8, "second": 3, "third": 3, "last": 8}
    assert inspect(small, 3).targets["ort-cpu"]["pairing"] is None
    assert inspect(small, 8).targets["ort-cpu-avx2"]["bits"] == dict.fromkeys(("first", "second", "third", "last"), 7)
    assert "bits" not in inspect(small).targets["ort-cpu"]


def test_pairs(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(words(capsys, small, "--bits", "2/6", "--json"))["targets"]["ort-cpu"]
    assert found["bits"] == {"first": 8, "second": 2, "third": 6, "last": 8}
    assert found["pairing"]["pairs"] == [{"low": "second", "high": ["third"], "through": []}]
    text = words(capsys, small, "--bits", "2/6")
    assert "2 bits: second 6 bits: third 8 bits: first, last" in text
    assert "second -> third" in text


def test_targets_that_agree_share_a_line(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = words(capsys, small, "--bits", "4")
    assert text.count("bits of the weights") == 2  # ort-cpu-avx2 has 7 bits for the ends
    assert "pairs for" not in text
    assert "bits of the weights" not in words(capsys, small)


@pytest.mark.parametrize(
    ("bits", "message"),
    [("9", "--bits 9 is not supported"), ("8/4", "higher number first"), ("x", "x is not a number of bits")],
)
def test_bits_that_quantize_would_not_take(small: Path, fails: Callable[..., str], bits: str, message: str) -> None:
    assert message in fails("inspect", small, "--bits", bits)
