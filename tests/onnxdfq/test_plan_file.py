"""A plan goes out, is edited or not, comes back, and is obeyed; what is no plan for the model is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from onnxdfq.cli import main
from onnxdfq.errors import OnnxdfqError
from onnxdfq.plan_file import plan_files, read_plan, write_plan
from passes.base import Skip
from passes.plan import QuantParams, QuantPlan
from passes.remove_qdq import constant_codes
from passes.targets import TARGETS

PLAN = QuantPlan(
    "ort-cpu",
    {
        "x": QuantParams("uint8", 8, (0.1,), (3,), None, "input of conv (Conv)"),
        "w": QuantParams("int8", 4, (0.1, 1 / 3), (0, 0), 0, "weights of conv"),
    },
    {"x": ("conv",)},
    (Skip("other", "placement", "its weights hold NaN or infinity"),),
)


def quantize(model: Path, *arguments: object) -> None:
    assert main(["quantize", str(model), "--recipe", "fast", "--quiet", *map(str, arguments)]) == 0


def reads(model: Path) -> dict[str, str]:
    """What the nodes of a model read their inputs from: Q/DQ, a constant in integers, or float."""

    def kind(tensor: gs.Tensor) -> str:
        writer = tensor.inputs[0] if tensor.inputs else None
        if writer is None or writer.op != "DequantizeLinear":
            return "float"
        return "float" if constant_codes(writer.inputs[0]) is None and not writer.inputs[0].inputs else "integers"

    graph = gs.import_onnx(onnx.load(model))
    plain = ("QuantizeLinear", "DequantizeLinear", "Cast")
    return {node.name: " ".join(map(kind, node.inputs)) for node in graph.nodes if node.op not in plain}


# -- the file


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    write_plan(PLAN, tmp_path / "new" / "plan.json")
    assert read_plan(tmp_path / "new" / "plan.json") == PLAN


def test_one_target_has_a_file_and_several_a_folder(tmp_path: Path) -> None:
    model, file = Path("nets/net.onnx"), tmp_path / "plan.json"
    assert plan_files(model, ["qnn"], file) == {"qnn": file}
    assert plan_files(model, ["qnn"], tmp_path) == {"qnn": tmp_path / "net.qnn.plan.json"}
    assert plan_files(model, ["qnn", "ort-cpu"], tmp_path / "new") == {
        "qnn": tmp_path / "new" / "net.qnn.plan.json", "ort-cpu": tmp_path / "new" / "net.ort-cpu.plan.json",
    }  # fmt: skip


# -- there and back


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("targets", "options"),
    [(list(TARGETS), ()), (["ort-cpu", "tensorrt"], ("--no-bias-correction", "--bits", "3", "--all-layers"))],
)
def test_a_plan_that_is_applied_as_it_came_gives_the_same_bytes(
    targets: list[str], options: tuple[str, ...], small: Path
) -> None:
    folder = small.parent
    chosen = [word for target in targets for word in ("--target", target)]
    quantize(small, *chosen, *options, "-o", folder / "first", "--plan-out", folder / "plans")
    for target in targets:
        (made,) = (folder / "first").glob(f"small.{target}.int*.onnx")
        plan = folder / "plans" / f"small.{target}.plan.json"
        quantize(small, "--target", target, "--plan", plan, *options[:1], "-o", folder / "again.onnx")
        assert (folder / "again.onnx").read_bytes() == made.read_bytes()


@pytest.mark.usefixtures("quick")
def test_a_plan_goes_out_again_as_it_came(small: Path) -> None:
    plan, again = small.parent / "plan.json", small.parent / "again.json"
    quantize(small, "--target", "ort-cpu", "--plan-out", plan)
    edited = json.loads(plan.read_text())
    edited["tensors"]["w2"]["why"] = "I like it"
    plan.write_text(json.dumps(edited))
    quantize(small, "--target", "ort-cpu", "--plan", plan, "--plan-out", again, "--seed", "5")
    assert read_plan(again) == read_plan(plan)


@pytest.fixture
def planned(small: Path, quick: None) -> Callable[..., Path]:
    """Quantize for a target, edit the plan, and quantize again: gives the path of the second result."""

    def run(target: str, edit: Callable[[dict[str, Any]], object], *options: str) -> Path:
        plan, result = small.parent / "plan.json", small.parent / "result.onnx"
        quantize(small, "--target", target, "--plan-out", plan, "-o", small.parent / "before.onnx", *options)
        data = json.loads(plan.read_text())
        edit(data)
        plan.write_text(json.dumps(data))
        quantize(small, "--target", target, "--plan", plan, "-o", result, "--report", small.parent / "r.json", *options)
        return result

    return run


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt", "ort-cuda"])
def test_a_layer_that_was_taken_out_of_the_plan_is_float(target: str, planned: Callable[..., Path]) -> None:
    def without_second(data: dict[str, Any]) -> None:
        del data["tensors"]["w2"]
        for readers in data["readers"].values():
            if "second" in readers:
                readers.remove("second")

    result = planned(target, without_second)
    before, after = reads(result.parent / "before.onnx"), reads(result)
    assert before["second"].split()[1] == "integers"
    assert after["second"] == "float float float"
    assert after["third"].split()[:2] == before["third"].split()[:2]
    assert json.loads((result.parent / "r.json").read_text())["targets"][target]["layers"] == 3


@pytest.mark.parametrize("rounding", ["nearest", "squant", "gptq"])
def test_a_scale_that_was_changed_is_the_one_in_the_file(rounding: str, planned: Callable[..., Path]) -> None:
    def other_scales(data: dict[str, Any]) -> None:
        data["tensors"]["r"]["scale"] = [0.0625]
        data["tensors"]["r"]["zero_point"] = [7]
        data["tensors"]["w2"]["scale"] = [0.25] * 16

    result = planned("ort-cpu", other_scales, "--no-bias-correction", "--rounding", rounding)
    graph = gs.import_onnx(onnx.load(result))
    nodes = {node.name: node for node in graph.nodes}
    activation, weight = (tensor.inputs[0] for tensor in nodes["second"].inputs[:2])
    assert [float(activation.inputs[1].values), int(activation.inputs[2].values)] == [0.0625, 7]
    np.testing.assert_array_equal(weight.inputs[1].values, np.full(16, 0.25, np.float32))
    codes, model = constant_codes(weight.inputs[0]), onnx.load(result.parent / "small.onnx")
    before = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}["w2"]
    assert codes is not None
    beside = np.abs(codes.astype(np.float32) - before / 0.25)
    assert beside.max() <= {"nearest": 0.5, "squant": 1.0, "gptq": 3.0}[rounding]


def test_an_activation_without_readers_is_not_quantized(planned: Callable[..., Path]) -> None:
    result = planned("tensorrt", lambda data: data["readers"].update({"c": []}))
    assert reads(result.parent / "before.onnx")["third"].split()[:2] == ["integers", "integers"]
    assert reads(result)["third"].split()[:2] == ["float", "integers"]


# -- what is no plan


def changed(**fields: object) -> dict[str, Any]:
    """The plan with other parameters for x, as it is in JSON."""
    data = json.loads(json.dumps(PLAN.to_json()))
    data["tensors"]["x"].update(fields)
    return data


def without(*path: str) -> dict[str, Any]:
    data = part = changed()
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return data


IMPOSSIBLE: dict[str, tuple[Any, str]] = {
    "a scale of 0": (changed(scale=[0.0]), "tensor x: a scale is not a positive number"),
    "a scale below 0": (changed(scale=[-0.1]), "tensor x: a scale is not a positive number"),
    "a scale that is no number": (changed(scale=[float("nan")]), "tensor x: a scale is not a positive number"),
    "an endless scale": (changed(scale=[float("inf")]), "tensor x: a scale is not a positive number"),
    "a scale too large for float32": (changed(scale=[1e39]), "tensor x: a scale is not a positive number"),
    "a scale too small for float32": (changed(scale=[1e-50]), "tensor x: a scale is not a positive number"),
    "a scale that is text": (changed(scale=["0.1"]), "is no plan"),
    "a scale that is no list": (changed(scale=0.1), "is no plan"),
    "no scale": (changed(scale=[], zero_point=[]), "tensor x: 0 scales"),
    "two scales": (changed(scale=[0.1, 0.2], zero_point=[0, 0]), "tensor x: 2 scales and no axis"),
    "two scales, one zero-point": (changed(scale=[0.1, 0.2]), "tensor x: 2 scales with 1 zero-points"),
    "a zero-point beyond the type": (changed(zero_point=[256]), "a zero-point is not a whole number from 0 to 255"),
    "half a zero-point": (changed(zero_point=[0.5]), "a zero-point is not a whole number"),
    "an unknown type": (changed(dtype="int3"), "tensor x: dtype int3 is not one of uint8, int8"),
    "a type that is a list": (changed(dtype=["int8"]), "is no plan"),
    "codes beyond the type": (changed(codes=[0, 256]), "tensor x: codes are not two whole numbers from 0 to 255"),
    "codes the wrong way round": (changed(codes=[15, 0]), "codes are not two whole numbers"),
    "half a code": (changed(codes=[0, 1.5]), "codes are not two whole numbers"),
    "three codes": (changed(codes=[0, 1, 2]), "is no plan"),
    "a zero-point that is none of the codes": (changed(codes=[4, 19]), "codes from 4 to 19 want one zero-point among"),
    "an axis below 0": (changed(axis=-1), "tensor x: axis -1"),
    "an axis that is text": (changed(axis="0"), "tensor x: axis 0 is not a whole number"),
    "an unknown field": (changed(block=16), "is no plan"),
    "a missing field": (without("tensors", "x", "dtype"), "is no plan"),
    "a missing part": (without("readers"), "is no plan: 'readers' is missing"),
    "no target": (without("target"), "is no plan: 'target' is missing"),
    "an unknown target": (changed() | {"target": "toaster"}, "is for a target toaster. known are tensorrt,"),
    "a target that is a list": (changed() | {"target": ["qnn"]}, "is no plan"),
    "a list": ([1, 2], "is no plan"),
    "null": (None, "is no plan"),
    "tensors that are a list": (changed() | {"tensors": []}, "is no plan"),
    "a skip that says too much": (changed() | {"skips": [{"node": "n", "because": "why"}]}, "is no plan"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_plan_is_refused(case: str, tmp_path: Path) -> None:
    data, said = IMPOSSIBLE[case]
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(OnnxdfqError) as caught:
        read_plan(tmp_path / "plan.json")
    assert said in str(caught.value)
    assert "plan.json" in str(caught.value)


def test_a_plan_may_not_ask_for_what_the_target_does_not_read(tmp_path: Path) -> None:
    for fields, said in [({"zero_point": [3], "dtype": "int8"}, "tensorrt takes no zero-point but 0"),
                         ({}, "tensorrt does not read uint8")]:  # fmt: skip
        (tmp_path / "plan.json").write_text(json.dumps(changed(**fields) | {"target": "tensorrt"}))
        with pytest.raises(OnnxdfqError, match=said):
            read_plan(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text(json.dumps(changed(dtype="int8") | {"target": "openvino"}))
    assert read_plan(tmp_path / "plan.json").tensors["x"].dtype == "int8"


def test_codes_come_back_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(changed(bits=4, codes=[0, 15])))
    assert read_plan(tmp_path / "plan.json").tensors["x"].codes == (0, 15)
    old = without("tensors", "x", "codes")
    (tmp_path / "plan.json").write_text(json.dumps(old))
    assert read_plan(tmp_path / "plan.json") == PLAN


def test_files_that_are_no_json(tmp_path: Path) -> None:
    for content, said in [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"", "is not JSON")]:
        (tmp_path / "plan.json").write_bytes(content)
        with pytest.raises(OnnxdfqError, match=said):
            read_plan(tmp_path / "plan.json")
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(OnnxdfqError, match="can't be read"):
            read_plan(path)


FOREIGN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an unknown tensor": (
        lambda data: data["tensors"].update(nowhere=data["tensors"]["image"]), "quantizes nowhere, which the model does"
    ),
    "an unknown reader": (
        lambda data: data["readers"]["image"].append("nobody"), "lets nobody read image, which the model does not have"
    ),
    "too few scales": (
        lambda data: data["tensors"]["w2"].update(scale=[0.1] * 15, zero_point=[0] * 15), "15 scales for w2 of shape"
    ),
    "an axis of another length": (lambda data: data["tensors"]["w1"].update(axis=1), "16 scales for w1 of shape"),
    "an axis that is not there": (lambda data: data["tensors"]["w2"].update(axis=4), "16 scales for w2 of shape"),
    "a scale of 0": (lambda data: data["tensors"]["w2"]["scale"].__setitem__(3, 0), "tensor w2: a scale is not"),
    "another target": (lambda data: data.update(target="qnn"), "the plan is for qnn. give --target qnn"),
}  # fmt: skip


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("case", FOREIGN)
def test_a_plan_for_another_model_is_refused(case: str, small: Path, fails: Callable[..., str]) -> None:
    edit, said = FOREIGN[case]
    plan, result = small.parent / "plan.json", small.parent / "result.onnx"
    quantize(small, "--target", "ort-cpu", "--plan-out", plan)
    data = json.loads(plan.read_text())
    edit(data)
    plan.write_text(json.dumps(data))
    line = fails("quantize", small, "--recipe", "fast", "--target", "ort-cpu", "--plan", plan, "-o", result)
    assert said in line
    assert not result.exists()
