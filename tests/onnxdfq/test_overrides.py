"""What a configuration file says of single nodes, what it may say, and that it is obeyed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxdfq
from onnxdfq.errors import OnnxdfqError
from onnxdfq.overrides import Overrides, read_overrides, resolve
from passes.targets import TARGETS

NODES = {"stem/conv": "Conv", "stem/relu": "Relu", "body/conv": "Conv", "body/conv_1": "Conv", "head/gemm": "Gemm"}


def bits(**found: int) -> Overrides:
    return Overrides({name.replace("__", "/"): value for name, value in found.items()}, {})


def written(folder: Path, text: str) -> Path:
    (folder / "onnxdfq.toml").write_text(text)
    return folder / "onnxdfq.toml"


def test_entries_are_read_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, '[[node]]\nname = "a*"\nbits = 4\n[[node]]\nop = "Conv"\nfloat = true\n')
    assert read_overrides(path) == [{"name": "a*", "bits": 4}, {"op": "Conv", "float": True}]


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert read_overrides(written(tmp_path, "# nothing\n")) == []
    assert resolve([], NODES) == Overrides({}, {})


def test_a_pattern_is_one_of_the_shell_on_the_whole_name() -> None:
    assert resolve([{"name": "body/*", "bits": 4}], NODES) == bits(body__conv=4, body__conv_1=4)
    assert resolve([{"name": "*conv", "bits": 4}], NODES) == bits(stem__conv=4, body__conv=4)
    assert resolve([{"name": "body/conv", "bits": 4}], NODES) == bits(body__conv=4)
    assert resolve([{"name": "body/conv_[0-9]", "bits": 4}], NODES) == bits(body__conv_1=4)
    assert resolve([{"name": "head/????", "bits": 4}], NODES) == bits(head__gemm=4)


def test_an_operator_or_both() -> None:
    assert resolve([{"op": "Gemm", "bits": 6}], NODES) == bits(head__gemm=6)
    assert resolve([{"op": "Conv", "name": "stem/*", "bits": 6}], NODES) == bits(stem__conv=6)


def test_later_entries_win() -> None:
    entries = [{"op": "Conv", "bits": 4}, {"name": "body/*", "float": True}, {"name": "body/conv_1", "bits": 2}]
    found = resolve(entries, NODES)
    assert found.bits == {"stem/conv": 4, "body/conv_1": 2}
    assert found.floats == {"body/conv": "the configuration keeps it in float (entry 2)"}
    assert resolve([*entries, {"op": "Conv", "bits": 8}], NODES) == bits(stem__conv=8, body__conv=8, body__conv_1=8)


def test_float_false_takes_back_what_was_said_before() -> None:
    assert resolve([{"name": "body/*", "float": True}, {"name": "body/conv", "float": False}], NODES).floats.keys() == {
        "body/conv_1"
    }
    assert resolve([{"op": "Conv", "bits": 4}, {"name": "*", "float": False}], NODES) == Overrides({}, {})


@pytest.mark.parametrize(
    ("entry", "said"),
    [({"name": "tail/*", "bits": 4}, 'name = "tail/*"'), ({"name": "BODY/*", "bits": 4}, "BODY"),
     ({"op": "ConvTranspose", "float": True}, 'op = "ConvTranspose"'),
     ({"op": "Gemm", "name": "body/*", "float": True}, 'name = "body/*" and op = "Gemm"')],
)  # fmt: skip
def test_an_entry_that_matches_no_node_is_an_error(entry: dict[str, object], said: str) -> None:
    with pytest.raises(OnnxdfqError, match="matches no node") as caught:
        resolve([{"op": "Conv", "bits": 4}, entry], NODES)
    assert said in str(caught.value)
    assert "entry 2" in str(caught.value)


def test_bits_for_nodes_without_weights_are_an_error() -> None:
    assert resolve([{"name": "stem/*", "bits": 4}], NODES).bits["stem/conv"] == 4  # the Relu beside it does no harm
    for entry in ({"op": "Relu", "bits": 4}, {"name": "stem/relu", "bits": 4}):
        with pytest.raises(OnnxdfqError, match="matches no layer with weights"):
            resolve([entry], NODES)
    assert resolve([{"op": "Relu", "float": True}], NODES).floats.keys() == {"stem/relu"}


WRONG = {
    "an unknown key": ('[[node]]\nname = "a"\nbit = 4', "entry 1: unknown key bit"),
    "an unknown key of the file": ('bits = 4\n[[node]]\nname = "a"\nbits = 4', "unknown key bits"),
    "no node": ("[[node]]\nbits = 4", "entry 1 says of no node"),
    "nothing to do": ('[[node]]\nname = "a"', "entry 1 says not what to do"),
    "two things to do": ('[[node]]\nname = "a"\nbits = 4\nfloat = true', "entry 1 says not what to do"),
    "one bit": ('[[node]]\nname = "a"\nbits = 1', "entry 1: bits = 1. choose from 2 to 8"),
    "nine bits": ('[[node]]\nname = "a"\nbits = 8\n[[node]]\nname = "a"\nbits = 9', "entry 2: bits = 9"),
    "bits that are text": ('[[node]]\nname = "a"\nbits = "4"', "bits = '4' is no int"),
    "bits that are true": ('[[node]]\nname = "a"\nbits = true', "bits = True is no int"),
    "bits that are broken": ('[[node]]\nname = "a"\nbits = 4.5', "bits = 4.5 is no int"),
    "float that is a number": ('[[node]]\nname = "a"\nfloat = 1', "float = 1 is no bool"),
    "a name that is a number": ("[[node]]\nname = 3\nbits = 4", "name = 3 is no str"),
    "one table": ('[node]\nname = "a"\nbits = 4', "node is not a list"),
    "a list of numbers": ("node = [1, 2]", "node is not a list"),
    "no TOML": ("[[node]\nname", "is not TOML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_whatever_else_is_written_is_an_error(case: str, tmp_path: Path) -> None:
    text, said = WRONG[case]
    with pytest.raises(OnnxdfqError) as caught:
        read_overrides(written(tmp_path, text))
    assert said in str(caught.value)
    assert "onnxdfq.toml" in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(OnnxdfqError, match="can't be read"):
        read_overrides(tmp_path / "nowhere.toml")
    with pytest.raises(OnnxdfqError, match="can't be read"):
        read_overrides(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OnnxdfqError, match="is not TOML"):
        read_overrides(tmp_path / "bytes.toml")


# -- on a model


def quantized(model: Path, text: str, **options: object) -> onnxdfq.Quantized:
    config = written(model.parent, text)
    return onnxdfq.quantize(model, recipe="fast", config=config, **options)  # type: ignore[arg-type]


def planned_bits(done: onnxdfq.Quantized, target: str) -> dict[str, int]:
    plan = done.report.targets[target].plan
    return {name: params.bits for name, params in plan.tensors.items() if name not in plan.readers}


@pytest.mark.usefixtures("quick")
def test_bits_by_name_and_operator_also_at_the_ends(small: Path) -> None:
    text = '[[node]]\nop = "Conv"\nbits = 3\n[[node]]\nname = "sec*"\nbits = 5\n'
    assert planned_bits(quantized(small, text, target="ort-cpu"), "ort-cpu") == {"w1": 3, "w2": 5, "w3": 3, "w4": 8}
    assert planned_bits(quantized(small, text, target="ort-cpu", bits=2), "ort-cpu") == {
        "w1": 3, "w2": 5, "w3": 3, "w4": 8,
    }  # fmt: skip
    assert planned_bits(quantized(small, text, target="ort-cpu", bits=2, all_layers=True), "ort-cpu")["w4"] == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_in_float_keeps_its_weights(target: str, small: Path) -> None:
    done = quantized(small, '[[node]]\nname = "second"\nfloat = true\n', target=target, bias_correction=False)
    entry, model = done.report.targets[target], done.models[target]
    assert entry.skips["the configuration keeps it in float (entry 1)"] == ["second"]
    assert "w2" not in entry.plan.tensors
    (left,) = [tensor for tensor in model.graph.initializer if tensor.name == "w2"]
    (before,) = [tensor for tensor in onnx.load(small).graph.initializer if tensor.name == "w2"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(left), onnx.numpy_helper.to_array(before))
    assert entry.layers == 3


@pytest.mark.usefixtures("quick")
def test_a_model_whose_every_layer_is_to_stay_float(small: Path) -> None:
    with pytest.raises(OnnxdfqError, match="nothing is left to quantize for tensorrt"):
        quantized(small, '[[node]]\nname = "*"\nfloat = true\n')


@pytest.mark.usefixtures("quick")
def test_a_pattern_that_matches_no_node_of_the_model(small: Path) -> None:
    with pytest.raises(OnnxdfqError, match="matches no node"):
        quantized(small, '[[node]]\nname = "fourth"\nbits = 4\n')
