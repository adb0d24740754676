"""What is said of a node agrees with what is in the file, and has a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxdfq
from onnxdfq.cli import main
from onnxdfq.errors import OnnxdfqError
from onnxdfq.explain import NodeFacts, explain
from passes.targets import TARGETS
from tests.onnxdfq.conftest import saved

NET = """g (float[1, 16, 8, 8] x) => (float[1, 10] y, float[1, 16, 8, 8] m, float[1, 48, 4, 4] j) {
    [stem] a = Conv (x, w1) [act] r = Relu (a) [conv] b = Conv (r, w2) [sum] s = Add (b, r) [exp] e = Exp (s)
    [pool] p = GlobalAveragePool (s) [flat] f = Flatten (p) [head] y = Gemm (f, w3) [dyn] m = MatMul (s, e)
    [max] q = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) [narrow] n = Conv (q, w4) [wide] i = Conv (n, w5)
    [join] j = Concat <axis = 1> (i, i, i)
}"""
SQUARE = (16, 16, 1, 1)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    shapes = {"w1": SQUARE, "w2": SQUARE, "w3": (16, 10), "w4": (9, 16, 1, 1), "w5": (16, 9, 1, 1)}
    return saved(NET, shapes, tmp_path / "net.onnx")


def fact(path: Path, node: str, target: str = "ort-cpu") -> NodeFacts:
    (found,) = explain(path, target, node)
    return found


def said(facts: NodeFacts) -> dict[str, tuple[str, str]]:
    return {tensor.name: (tensor.role, tensor.state) for tensor in facts.tensors}


def why(facts: NodeFacts, name: str) -> str:
    (found,) = [tensor.why for tensor in facts.tensors if tensor.name == name]
    return found


# -- verdicts

NO_ONE = "nobody behind it reads integers, or"
VERDICTS = {
    "ort-cpu": {
        "stem": "integers", "act": "absorbed by the quantizer of its output, where that follows a layer",
        "sum": "integers", "exp": "float: ort-cpu has no rule for Exp", "pool": "integers", "max": "integers",
        "dyn": "float: its second operand is computed, not a constant weight", "narrow": "integers",
        "join": f"float: {NO_ONE} its inputs are not all quantized",
    },
    "tensorrt": {
        "stem": "integers", "sum": "integers", "pool": f"float: {NO_ONE} its input is not quantized",
        "flat": f"float: {NO_ONE} its input is not quantized", "head": "integers",
        "narrow": "integers", "exp": "float: tensorrt has no rule for Exp",
    },
    "ort-cuda": {
        "stem": "weights in integers, computes in float", "sum": "float: ort-cuda has no rule for Add",
        "dyn": "float: its second operand is computed, not a constant weight",
    },
    "openvino": {"stem": "integers", "sum": "integers", "exp": "float: openvino has no rule for Exp"},
    "qnn": {"exp": "float: qnn has no rule for Exp", "pool": "integers", "flat": "integers", "join": "integers"},
}  # fmt: skip


@pytest.mark.parametrize("target", VERDICTS)
def test_verdicts(target: str, net: Path) -> None:
    found = {facts.node: facts.verdict for facts in explain(net, target)}
    assert {node: found[node] for node in VERDICTS[target]} == VERDICTS[target]


def test_few_channels_are_a_reason(tmp_path: Path) -> None:
    path = saved("g (float[1, 3, 8, 8] x) => (float[1, 16, 8, 8] y) { [a] h = Conv (x, u) [b] y = Conv (h, v) }",
                 {"u": (9, 3, 1, 1), "v": (16, 9, 1, 1)}, tmp_path / "few.onnx")  # fmt: skip
    assert fact(path, "a", "tensorrt").verdict == "float: few channels (3 in, 9 out): faster in float"
    assert fact(path, "a", "ort-cpu").verdict == "integers"


def test_arithmetic_without_a_layer_before_it(tmp_path: Path) -> None:
    path = saved("g (float[1, 4] x) => (float[1, 3] y) { [sum] s = Add (x, k) [mm] y = MatMul (s, w) }",
                 {"k": (1, 4), "w": (4, 3)}, tmp_path / "sum.onnx")  # fmt: skip
    assert fact(path, "sum").verdict == "float: no operand comes from a layer in integers, or one is constant"
    assert fact(path, "mm").verdict == "integers"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("target", TARGETS)
def test_a_node_in_integers_reads_integers_in_the_file(target: str, net: Path) -> None:
    """And layers in float have float weights; said of the float model, seen in the quantized one."""
    done = onnxdfq.quantize(net, target=target, recipe="fast", output=net.parent / "q.onnx", input_shape=(1, 16, 8, 8))
    writer = {name: node.op_type for node in done.models[target].graph.node for name in node.output}
    nodes = {node.name: node for node in done.models[target].graph.node}
    for facts in explain(net, target):
        reads = [writer.get(name) == "DequantizeLinear" for name in nodes[facts.node].input]
        if facts.op in ("Conv", "Gemm", "MatMul"):
            assert reads[1] is (facts.verdict in ("integers", "weights in integers, computes in float"))
        if facts.verdict == "integers":
            assert any(reads)
        for tensor in [each for each in facts.tensors if each.role == "input"]:
            place = [
                k
                for k, name in enumerate(nodes[facts.node].input)
                if tensor.name in (name, name.removesuffix("_dequantized"))
            ]
            assert reads[place[0]] is (tensor.state != "float" and not tensor.state.endswith("read in float here"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("target", TARGETS)
def test_a_quantized_model_is_explained_as_the_float_one_with_scales(target: str, net: Path) -> None:
    onnxdfq.quantize(net, target=target, recipe="fast", output=net.parent / "q.onnx", bits=4)
    before, after = ({facts.node: facts for facts in explain(path, target)} for path in (net, net.parent / "q.onnx"))
    assert before.keys() == after.keys()
    for node, facts in before.items():
        assert after[node].verdict == facts.verdict
        states = zip(said(facts).values(), said(after[node]).values(), strict=True)
        for (_, ours), (_, theirs) in states:
            assert theirs.startswith(ours)
            assert (", scale" in theirs) is (ours != "float")


# -- tensors


def test_where_the_scales_of_a_layer_come_from(net: Path) -> None:
    facts = fact(net, "conv")
    assert said(facts) == {
        "r": ("input", "uint8"), "w2": ("input", "int8 weights, a scale for each index of axis 0"),
        "b": ("output", "uint8"),
    }  # fmt: skip
    assert why(facts, "r").startswith("output of stem: its integer kernel writes integers")
    assert why(facts, "w2") == "weights of conv"
    assert said(fact(net, "head"))["w3"] == ("input", "int8 weights, a scale for each index of axis 1")


def test_a_shared_scale_is_told(net: Path) -> None:
    assert why(fact(net, "max"), "q").endswith("; one scale with r")
    assert why(fact(net, "max"), "r").endswith("; one scale with q")
    assert "one scale" not in why(fact(net, "sum"), "b")


def test_one_scale_for_all_channels(tmp_path: Path) -> None:
    path = saved("g (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) { [up] y = ConvTranspose (x, w) }",
                 {"w": SQUARE}, tmp_path / "up.onnx")  # fmt: skip
    assert said(fact(path, "up", "tensorrt"))["w"] == ("input", "int8 weights, one scale")


def test_a_reader_in_float_of_a_quantized_tensor(tmp_path: Path) -> None:
    path = saved("""g (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y, float[1, 16, 8, 8] z) {
        [conv] y = Conv (x, w) [exp] z = Exp (x)
    }""", {"w": SQUARE}, tmp_path / "two.onnx")  # fmt: skip
    assert said(fact(path, "exp", "tensorrt"))["x"] == ("input", "int8, but read in float here")
    assert said(fact(path, "exp", "ort-cpu"))["x"] == ("input", "uint8")
    assert said(fact(path, "exp", "tensorrt"))["z"] == ("output", "float")
    assert why(fact(path, "exp", "tensorrt"), "z") == "nobody reads or writes it in integers"


@pytest.mark.usefixtures("quick")
def test_scales_are_those_of_the_file(small: Path) -> None:
    done = onnxdfq.quantize(small, target="ort-cpu", recipe="fast", bits=4, output=small.parent / "q.onnx")
    facts = said(fact(small.parent / "q.onnx", "second"))
    tensors = done.report.targets["ort-cpu"].plan.tensors
    r, w = tensors["r"], tensors["w2"]
    assert facts["r"][1] == f"uint8, scale {r.scale[0]:.5g}, zero-point {r.zero_point[0]}"
    assert facts["w2"][1].endswith(f", scales {min(w.scale):.3g} to {max(w.scale):.3g}")
    assert facts["c"][1].startswith("uint8, scale ")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt", "qnn"])
def test_scales_of_tensors_that_are_clipped(target: str, small: Path) -> None:
    path = small.parent / "q.onnx"
    done = onnxdfq.quantize(small, target=target, recipe="fast", act_bits=4, all_layers=True, output=path)
    plan = done.report.targets[target].plan
    assert any(params.codes for params in plan.tensors.values())
    shown = {name: state for facts in explain(path, target) for name, (_, state) in said(facts).items()}
    for name in plan.readers:
        (scale,), (zero,) = plan.tensors[name].scale, plan.tensors[name].zero_point
        assert shown[name].endswith(f", scale {scale:.5g}, zero-point {zero}")


@pytest.mark.usefixtures("quick")
def test_a_concat_of_ranges_far_apart_is_explained_where_ranges_are_known(tmp_path: Path) -> None:
    text = """g (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) {
        a = Conv (x, u) b = Conv (x, v) [join] c = Concat <axis = 1> (a, b) y = Conv (c, w)
    }"""
    path = saved(text, {"u": SQUARE, "v": SQUARE, "w": (16, 32, 1, 1)}, tmp_path / "join.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "u":
            tensor.CopyFrom(numpy_helper.from_array(500 * numpy_helper.to_array(tensor), "u"))
    onnx.save(model, path)
    assert "far apart" not in fact(path, "join", "tensorrt").verdict
    onnxdfq.quantize(path, target="tensorrt", recipe="fast", output=tmp_path / "q.onnx", input_shape=(1, 16, 8, 8))
    assert fact(tmp_path / "q.onnx", "join", "tensorrt").verdict.startswith("float: it joins ranges far apart: b up to")


def test_models_of_other_tools(tmp_path: Path) -> None:
    text = """g (float[1, 4] x) => (float[1, 2] y) {
        s = Constant <value = float {0.5}> () z = Constant <value = int8 {3}> ()
        xq = QuantizeLinear (x, s) xd = DequantizeLinear (xq, s)
        w = DequantizeLinear <axis = 1> (c, t, n) [mm] y = MatMul (xd, w)
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    constants = {"c": np.ones((4, 2), np.int8), "t": np.float32([0.25, 2]), "n": np.zeros(2, np.int8)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.save(model, tmp_path / "other.onnx")
    assert said(fact(tmp_path / "other.onnx", "mm")) == {
        "x": ("input", "uint8, scale 0.5, zero-point 0"),
        "w": ("input", "int8 weights, a scale for each index of axis 1, scales 0.25 to 2"),
        "y": ("output", "float"),
    }


# -- which nodes


def test_all_nodes_one_or_the_one_that_writes_a_tensor(net: Path) -> None:
    assert [facts.node for facts in explain(net, "ort-cpu")][:3] == ["stem", "act", "conv"]
    assert fact(net, "b") == fact(net, "conv")
    assert fact(net, "conv").op == "Conv"


def test_an_unknown_node(net: Path) -> None:
    with pytest.raises(OnnxdfqError, match=r"the model has no node Conv_12\. `onnxdfq explain net.onnx` lists"):
        explain(net, "ort-cpu", "Conv_12")


def test_normalizations_are_folded_by_then(tmp_path: Path) -> None:
    text = """g (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) {
        [conv] a = Conv (x, w) [norm] y = BatchNormalization (a, one, zero, zero, one)
    }"""
    path = saved(text, {"w": SQUARE, "one": (16,), "zero": (16,)}, tmp_path / "norm.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "one":
            tensor.CopyFrom(numpy_helper.from_array(np.ones(16, np.float32), "one"))
    onnx.save(model, path)
    assert [facts.node for facts in explain(path, "ort-cpu")] == ["conv"]
    with pytest.raises(OnnxdfqError, match="BatchNormalization is folded by then"):
        explain(path, "ort-cpu", "norm")


# -- as it is printed


def test_one_line_for_each_node_and_details_for_one(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(net), "--target", "ort-cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert lines[0] == "stem (Conv) on ort-cpu: integers"
    assert main(["explain", str(net), "conv", "--target", "ort-cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "conv (Conv) on ort-cpu: integers", "  input r: uint8",
        "    output of stem: its integer kernel writes integers; one scale with q",
    ]  # fmt: skip


def test_json(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(net), "--target", "qnn", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["node"] for entry in found] == [facts.node for facts in explain(net, "qnn")]
    assert set(found[0]) == {"node", "op", "verdict", "tensors"}
    assert set(found[0]["tensors"][0]) == {"name", "role", "state", "why"}


def test_mistakes(net: Path, fails: Callable[..., str]) -> None:
    assert "the model has no node nothing" in fails("explain", net, "nothing")
    assert "--target toaster is not known. choose from tensorrt" in fails("explain", net, "--target", "toaster")
    assert "does not exist" in fails("explain", net.parent / "missing.onnx")
