"""Two models side by side: what is the same, where they part, and what can't be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxdfq.cli import main
from onnxdfq.verify.tensors import first_to_part, tensor_noise
from tests.onnxdfq.conftest import saved


def altered(path: Path, weights: str, by: float) -> Path:
    """A copy of the model in which noise was added to some weights."""
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.name == weights)
    values = numpy_helper.to_array(tensor)
    noise = np.random.default_rng(1).normal(0, by * values.std(), values.shape)
    tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), weights))
    other = path.with_name(f"other_{weights}.onnx")
    onnx.save(model, other)
    return other


def compared(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    assert main(["compare", *map(str, arguments), "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_agrees_with_itself(small: Path, capsys) -> None:
    found = compared(capsys, small, small)
    assert found["agreement"]["top1"] == 100
    assert found["parted"] is None
    assert [each["node"] for each in found["tensors"]] == [
        "first",
        "relu",
        "second",
        "third",
        "pool",
        "flatten",
        "last",
    ]
    assert found["providers"] == ["CPUExecutionProvider"] * 2
    assert min(found["milliseconds"]) > 0


@pytest.mark.parametrize(("weights", "parts"), [("w2", "c"), ("w4", "scores")])
def test_they_part_where_they_differ(small: Path, capsys, weights: str, parts: str) -> None:
    found = compared(capsys, small, altered(small, weights, 0.5))
    assert found["parted"]["tensor"] == parts
    assert found["agreement"]["top1"] < 100 or found["agreement"]["kl"] > 0


def test_noise_is_that_of_the_definition(small: Path) -> None:
    first, second = onnx.load(small), onnx.load(altered(small, "w1", 0.1))
    x = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    found = tensor_noise(first, second, [{"image": x[:1]}, {"image": x[1:]}])
    whole = tensor_noise(first, second, [{"image": x}])
    assert [each.sqnr for each in found] == pytest.approx([each.sqnr for each in whole], abs=1e-3)
    assert 15 < found[0].sqnr < 25  # a tenth of the weights' deviation: about 20 dB
    assert first_to_part(found, 50.0) == found[0]
    assert first_to_part(found, 0.0) is None


def test_a_quantized_model_is_compared_with_labels(labelled: Path, tmp_path: Path, capsys) -> None:
    shipped = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"
    made = tmp_path / "made.onnx"
    assert main(["quantize", str(shipped), "--recipe", "fast", "--target", "ort-cpu", "-o", str(made), "--quiet"]) == 0
    found = compared(capsys, shipped, made, "--eval", labelled)
    assert min(found["accuracies"]) > 95
    assert found["sizes"][1] < found["sizes"][0]
    assert found["images"] == "450 labelled"
    assert main(["compare", str(shipped), str(made), "--quiet"]) == 0
    assert "noisiest tensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(float[N, 3, 16, 16] picture) => (float[N, 4] scores) { f = Flatten(picture) scores = MatMul(f, w) }",
         "inputs differ (image, picture)"),
        ("(float[N, 3, 16, 16] image) => (float[N, 4] y) { f = Flatten(image) y = MatMul(f, w) }",
         "outputs differ (scores, y)"),
        ("(float[N, 3, 8, 32] image) => (float[N, 4] scores) { f = Flatten(image) scores = MatMul(f, w) }",
         "input image is FLOAT [0, 3, 16, 16] in small.onnx and FLOAT [0, 3, 8, 32] in g.onnx"),
    ],
)  # fmt: skip
def test_unrelated_models_are_refused(small: Path, tmp_path: Path, fails, text: str, said: str) -> None:
    other = saved(f"g {text}", {"w": (768, 4)}, tmp_path / "g.onnx")
    assert said in fails("compare", small, other)


def test_files_that_are_no_models_are_refused(small: Path, tmp_path: Path, fails) -> None:
    assert "does not exist" in fails("compare", small, tmp_path / "none.onnx")
