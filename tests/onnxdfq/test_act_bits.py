"""Activations of few bits, of sixteen and of none, from file to file, and what `check` and `retarget` make of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxdfq
from digits import held_out
from onnxdfq.check import check
from onnxdfq.cli import main
from onnxdfq.config import ACTIVATIONS_KEY
from onnxdfq.engine.ort import Session, tapped
from passes.targets import TARGETS

DIGITS = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"
ENOUGH = {6: 98.5, 4: 90.0}  # percent of the held-out digits, weights of 8 bits; the float model has 99


def run(*arguments: object) -> None:
    assert main([str(each) for each in arguments]) == 0


def quantize(model: Path, *options: object) -> None:
    run("quantize", model, "--recipe", "fast", "--quiet", "--no-bias-correction", *options)


def quantized_activations(model: onnx.ModelProto) -> dict[str, str]:
    """What each DequantizeLinear of an activation writes, and what is quantized before it."""
    stored = {tensor.name for tensor in model.graph.initializer}
    writers = {node.output[0]: node for node in model.graph.node}
    found = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in writers:
            source = writers[node.input[0]].input[0]
            if source not in stored and writers[node.input[0]].op_type == "QuantizeLinear":
                found[node.output[0]] = source
    return found


def types(path: Path) -> set[str]:
    """Of the codes that activations are quantized to."""
    model = onnx.load(path)
    held = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}
    return {held[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
@pytest.mark.parametrize("bits", ENOUGH)
def test_few_bits_are_so_many_values_and_still_see_digits(
    bits: int, target: str, labelled: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made.onnx"
    done = onnxdfq.quantize(DIGITS, target=target, act_bits=bits, recipe="fast", evaluate=labelled, output=made)
    entry = done.report.targets[target]
    assert entry.accuracy is not None
    assert entry.accuracy > ENOUGH[bits]
    widths = {name: entry.plan.tensors[name].bits for name in entry.plan.readers}
    assert set(widths.values()) == {bits, 8}
    assert widths["image"] == 8
    model = onnx.load(made)
    names = list(quantized_activations(model))
    values = Session(tapped(model, names)).run({"image": held_out()[0][:64].astype(np.float32)})
    counts = {name: len(np.unique(values[name])) for name in names}
    assert all(count <= 256 for count in counts.values())
    assert sum(count <= 2**bits for count in counts.values()) >= list(widths.values()).count(bits) > 10


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", [2, 5])
def test_check_has_nothing_to_complain_of(bits: int, target: str, small: Path) -> None:
    made = small.parent / "made.onnx"
    done = onnxdfq.quantize(small, target=target, act_bits=bits, all_layers=True, recipe="fast", output=made)
    found = check(made, target)
    assert {finding.severity for finding in found} <= {"note"}
    assert {finding.rule for finding in found} <= {"few-bits"}
    said = "keeps activations in float" if TARGETS[target].weights_only else f"activations of {bits} bits ({target})"
    assert [notice for notice in done.report.notices if said in notice]


@pytest.mark.usefixtures("quick")
def test_sixteen_bits_are_stored_as_such(small: Path) -> None:
    wide, plain = small.parent / "wide.onnx", small.parent / "plain.onnx"
    distances = []
    for path, bits in ((wide, 16), (plain, 8)):
        done = onnxdfq.quantize(small, target="qnn", act_bits=bits, recipe="fast", bias_correction=False, output=path)
        agreement = done.report.targets["qnn"].agreement
        distances.append(agreement.distance)
    assert distances[0] < distances[1]
    assert (types(wide), types(plain)) == ({"UINT16"}, {"UINT8"})
    assert [onnx.load(path).opset_import[0].version for path in (wide, plain)] == [21, 17]
    assert check(wide, "qnn") == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("target", TARGETS)
def test_without_activations_only_weights_are_in_integers(target: str, small: Path) -> None:
    made = small.parent / "made.onnx"
    run("quantize", small, "--recipe", "fast", "--quiet", "--target", target, "--act-bits", "none", "-o", made)
    operators = [node.op_type for node in onnx.load(made).graph.node]
    assert "QuantizeLinear" not in operators
    assert operators.count("DequantizeLinear") == 4


@pytest.mark.usefixtures("quick")
def test_ranges_are_cut_for_the_bits_that_they_are_for(small: Path) -> None:
    plain, few, wide = (
        onnxdfq.quantize(small, target="qnn", act_bits=bits, recipe="fast").report.ranges for bits in (8, 3, 16)
    )
    assert few["image"] == plain["image"] == wide["image"]
    assert few["r"][1] < plain["r"][1] <= wide["r"][1]


# -- another target


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("options", "targets"),
    [(("--act-bits", "4"), ("ort-cpu", "tensorrt", "ort-cuda", "qnn", "openvino")),
     (("--act-bits", "3", "--all-layers"), ("ort-cpu", "tensorrt", "openvino")),
     (("--act-bits", "none"), ("ort-cpu", "tensorrt", "qnn"))],
    ids=["few", "few everywhere", "none"],
)  # fmt: skip
def test_another_target_has_the_bits_that_the_ranges_were_measured_for(
    options: tuple[str, ...], targets: tuple[str, ...], small: Path
) -> None:
    folder, made = small.parent / "direct", small.parent / "made.onnx"
    folder.mkdir()
    chosen = [word for target in targets for word in ("--target", target)]
    kept = ("--report", small.parent / "report.json", "--rounding", "nearest")  # as from ranges alone
    quantize(small, *chosen, *options, "-o", folder, *kept)
    for target in targets:
        direct = folder / f"small.{target}.int8.onnx"
        run("retarget", small, "--ranges", small.parent / "report.json", "--target", target, "-o", made)
        assert made.read_bytes() == direct.read_bytes()
        run("retarget", folder / "small.tensorrt.int8.onnx", "--target", target, "-o", made)
        (ours, theirs) = (
            {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
            for path in (made, direct)
        )
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name].astype(float), value.astype(float), rtol=1e-6)


@pytest.mark.usefixtures("quick")
def test_sixteen_bits_are_no_ranges_for_others(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantize(small, "--target", "qnn", "--act-bits", "16", "-o", small.parent / "wide.onnx")
    assert main(["retarget", str(small.parent / "wide.onnx"), "--target", "ort-cpu"]) == 1
    assert "ort-cpu has no 16-bit activations" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_what_is_stored_of_activations_and_is_damaged(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantize(small, "--target", "ort-cpu", "--act-bits", "4", "-o", small.parent / "few.onnx")
    for text in ("{", "[]", '{"act_bits": 4}', '{"act_bits": 40, "all_layers": false}'):
        model = onnx.load(small.parent / "few.onnx")
        (entry,) = (each for each in model.metadata_props if each.key == ACTIVATIONS_KEY)
        assert json.loads(entry.value) == {"act_bits": 4, "all_layers": False}
        entry.value = text
        onnx.save(model, small.parent / "damaged.onnx")
        assert main(["retarget", str(small.parent / "damaged.onnx"), "--target", "tensorrt"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "says nothing sound of activations" in line or "--act-bits 40 is not supported" in line


@pytest.mark.usefixtures("quick")
def test_a_plan_with_activations_of_few_bits_is_obeyed(small: Path) -> None:
    plan, report = small.parent / "plan.json", small.parent / "report.json"
    quantize(small, "--target", "ort-cpu", "--act-bits", "4", "--plan-out", plan, "-o", small.parent / "first.onnx")
    quantize(small, "--target", "ort-cpu", "--plan", plan, "--report", report, "-o", small.parent / "again.onnx")
    nodes = [[(node.name, node.op_type) for node in onnx.load(small.parent / name).graph.node]
             for name in ("first.onnx", "again.onnx")]  # fmt: skip
    assert nodes[0] == nodes[1]
    assert json.loads(report.read_text())["targets"]["ort-cpu"]["plan"] == json.loads(plan.read_text())
