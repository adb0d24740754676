"""Lowering: names, folding, taps, writing back, and saying what cannot run."""

from __future__ import annotations

import copy
import inspect
import re
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from onnxdfq.engine.lower import UnsupportedOperator, lower, tap, unsupported, write_back
from onnxdfq.engine.operators import catalogue
from onnxdfq.engine.operators.registry import attribute_value
from onnxdfq.errors import OnnxdfqError

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 2, 6, 6] image) => (float[N, K] logits, float[N, 3, 6, 6] features) <
  float six = {0.6}, int64[1] last = {-1}
> {
  conv_out = Conv <pads = [1, 1, 1, 1]> (image, "conv1.weight", "conv1.bias")
  normal = BatchNormalization (conv_out, "bn.gamma", "bn.beta", "bn.mean", "bn.var")
  features = Clip (normal, , six)
  shape = Shape (features)
  first = Constant <value = int64[1] {0}> ()
  batch = Gather (shape, first)
  target = Concat <axis = 0> (batch, last)
  flat = Reshape (features, target)
  logits = MatMul (flat, "fc.weight")
}"""
WEIGHTS = {"conv1.weight": (3, 2, 3, 3), "conv1.bias": (3,), "fc.weight": (108, 4)}
NORMAL = dict.fromkeys(("bn.gamma", "bn.beta", "bn.mean", "bn.var"), (3,))


@pytest.fixture
def net() -> onnx.ModelProto:
    model = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(1)
    for name, shape in (WEIGHTS | NORMAL).items():
        values = np.abs(rng.standard_normal(shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((2, 2, 6, 6)).astype(np.float32)


def parse(header: str, body: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {header} {{ {body} }}')


def functions_called(gm: torch.fx.GraphModule) -> list[str]:
    return [node.target.__name__ for node in gm.graph.nodes if node.op == "call_function"]


def test_agrees_with_onnxruntime_for_static_and_dynamic_shapes(agrees: Any, net: Any, image: Any) -> None:
    agrees(net, [image])
    agrees(net, [image], input_shapes={"image": image.shape})


def test_parameters_keep_their_names(net: onnx.ModelProto) -> None:
    gm = lower(net)
    assert {name for name, _ in gm.named_parameters()} == {
        "conv1.weight", "conv1.bias", "bn.gamma", "bn.beta", "fc.weight",
    }  # fmt: skip
    assert all(parameter.requires_grad for parameter in gm.parameters())
    assert not any(parameter.requires_grad for parameter in lower(net, trainable=False).parameters())
    assert gm.get_buffer("bn.mean").shape == (3,)  # statistics are never trained
    assert gm.meta["initializers"]["bn.var"] == "bn.var"
    assert "six" not in gm.meta["initializers"]  # a bound of Clip is structure
    with pytest.raises(AttributeError):
        gm.get_parameter("six")


def test_names_that_torch_cannot_hold_are_replaced() -> None:
    awkward = [
        "a",
        "a.b",
        "a..c",
        "train",
        "x.forward",
        "class",
        'quo"te',
        "back\\slash",
        "",
        "1.2",
        "k::v/w",
    ]
    awkward = [name for name in awkward if name]
    model = parse("(float[2] x) => (float[2] y)", "y = Identity (x)")
    previous = "x"
    for index, name in enumerate(awkward):
        model.graph.initializer.append(numpy_helper.from_array(np.array([index, 1], np.float32), name))
        model.graph.node.insert(index, onnx.helper.make_node("Add", [previous, name], [f"s{index}"]))
        previous = f"s{index}"
    model.graph.node[-1].input[0] = previous
    gm = lower(model)
    (y,) = gm(torch.zeros(2))
    assert y.tolist() == [sum(range(len(awkward))), len(awkward)]
    names = gm.meta["initializers"]
    assert list(names) == awkward
    assert len(set(names.values())) == len(awkward)
    assert {name for name in awkward if names[name] == name} == {"a.b", "1.2", "k::v/w"}
    for index, name in enumerate(awkward):
        assert gm.get_parameter(names[name])[0] == index


def test_shape_arithmetic_folds_when_shapes_are_known(net: onnx.ModelProto, image: np.ndarray) -> None:
    assert "shape" in functions_called(lower(net))
    static = lower(net, input_shapes={"image": image.shape})
    assert functions_called(static) == ["conv", "batch_normalization", "clip", "reshape", "matmul"]


def test_a_shape_that_depends_on_values_stays_dynamic(agrees: Any) -> None:
    model = parse("(float[6] x) => (int64[2] y)", "n = NonZero (x) y = Shape (n)")
    assert "shape" in functions_called(lower(model, input_shapes={"x": (6,)}))
    agrees(model, [np.array([1, 0, 2, 0, 0, 3], np.float32)], input_shapes={"x": (6,)})


def test_unknown_input_shape_is_an_error(net: onnx.ModelProto) -> None:
    with pytest.raises(OnnxdfqError, match="no input picture"):
        lower(net, input_shapes={"picture": (1, 2, 6, 6)})


def test_integer_arithmetic_of_shapes(agrees: Any) -> None:
    body = """
      s = Shape (x)
      two = Constant <value = int64[1] {-2}> ()
      one = Constant <value_int = 1> ()
      axis = Constant <value_ints = [0]> ()
      rows = Gather (s, one)
      row = Unsqueeze (rows, axis)
      half = Div (row, two)
      minus = Constant <value = int64[1] {-1}> ()
      all = Concat <axis = 0> (half, minus)
      y = Abs (all)
    """
    model = parse("(float[N, M] x) => (int64[2] y)", body)
    agrees(model, [np.zeros((3, 7), np.float32)])
    agrees(model, [np.zeros((3, 7), np.float32)], input_shapes={"x": (3, 7)})
    assert functions_called(lower(model, input_shapes={"x": (3, 7)})) == []


def test_nodes_know_their_onnx_tensor(net: onnx.ModelProto) -> None:
    known = {node.meta.get("onnx_tensor") for node in lower(net).graph.nodes}
    assert {"image", "conv_out", "normal", "features", "shape", "flat", "logits", "conv1.weight"} <= known


def test_tap_shares_parameters_and_returns_tensors(net: Any, image: Any, onnxruntime_run: Any) -> None:
    gm = lower(net)
    tapped = tap(gm, ["conv_out", "image", "flat"])
    (logits, features), tensors = tapped(torch.from_numpy(image))
    assert list(tensors) == ["conv_out", "image", "flat"]
    assert tapped.get_parameter("conv1.weight") is gm.get_parameter("conv1.weight")
    assert tapped.meta["initializers"] == gm.meta["initializers"]
    net.graph.output.append(onnx.helper.make_tensor_value_info("conv_out", 1, None))
    expected = onnxruntime_run(net, {"image": image})
    for ours, theirs in zip((logits, features, tensors["conv_out"]), expected, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-5, atol=1e-5)
    with pytest.raises(OnnxdfqError, match="no tensor to tap: nowhere"):
        tap(gm, ["nowhere"])


def test_dead_intermediates_are_freed(net: onnx.ModelProto) -> None:
    assert re.search(r"; .*\bconv_out = (\w+ = )*None", lower(net).code)


def test_modules_can_be_copied_and_converted(net: onnx.ModelProto, image: np.ndarray) -> None:
    gm = lower(net)
    expected = gm(torch.from_numpy(image))[0]
    copied = copy.deepcopy(gm)
    assert torch.equal(copied(torch.from_numpy(image))[0], expected)
    assert copied.meta["initializers"] == gm.meta["initializers"]
    double = copied.double()(torch.from_numpy(image).double())[0]
    assert double.dtype == torch.float64
    assert gm.get_parameter("fc.weight").dtype == torch.float32
    torch.testing.assert_close(double.float(), expected)


@pytest.mark.parametrize("element_type", ["FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"])
def test_write_back_keeps_types(element_type: str) -> None:
    code = onnx.TensorProto.DataType.Value(element_type)
    model = parse("(float[2] x) => (float[2] y)", "c = Cast <to = 1> (w) y = Mul (x, c)")
    model.graph.initializer.append(onnx.helper.make_tensor("w", code, [2], [1.0, 2.0]))
    model.graph.initializer[0].doc_string = "kept"
    gm = lower(model)
    with torch.no_grad():
        gm.get_parameter("w").mul_(-1.5)
    write_back(gm, model)
    (written,) = model.graph.initializer
    assert (written.name, written.data_type, written.doc_string) == ("w", code, "kept")
    assert numpy_helper.to_array(written).astype(np.float32).tolist() == [-1.5, -3.0]


def test_write_back_writes_statistics_and_misses_nothing(net: Any, image: Any, agrees: Any) -> None:
    gm = lower(net)
    with torch.no_grad():
        for value in (*gm.parameters(), *gm.buffers()):
            if value.is_floating_point():
                value.mul_(1.25)
    write_back(gm, net)
    torch.testing.assert_close(lower(net)(torch.from_numpy(image)), gm(torch.from_numpy(image)))
    agrees(net, [image])
    del net.graph.initializer[2]
    with pytest.raises(OnnxdfqError, match=r"no initializer conv1\.weight"):
        write_back(gm, net)


def test_inputs_that_are_initializers_are_not_arguments() -> None:
    model = parse("(float[2] x, float[2] w) => (float[2] y, float[2] w, float[2] x)", "y = Mul (x, w)")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.float32), "w"))
    y, w, x = lower(model)(torch.ones(2))
    assert (y.tolist(), w.tolist(), x.tolist()) == ([2, 3], [2, 3], [1, 1])


def test_local_functions_are_inlined(agrees: Any) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[3] x) => (float[3] y) { y = local.twice (x) }
        <domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }"""
    )
    assert unsupported(model) == []
    agrees(model, [np.ones(3, np.float32)])


UNSUPPORTED = {
    "unknown operator": ("y = Hann (x)", 17, "ai.onnx::Hann version 17 is not supported"),
    "operator without a function": ("y = Loop (x)", 17, "the engine has no ai.onnx::Loop"),
    "version before the first": ("y = Add <axis = 1> (x, x)", 6, r"Add version 6 .* versions 7 to \d+"),
    "attribute value": ('y = Pad <mode = "far"> (x, s)', 18, "mode = far, but only constant"),
    "unknown attribute": ("y = Conv <colour = 1> (x, x)", 17, "attribute colour is not known"),
    "extra output": ("y, z = Relu (x)", 17, "output z is not computed"),
    "extra input": ("y = Relu (x, x)", 17, "it has 2 inputs, 1 are known"),
    "other domain": ("y = far.Away (x)", 17, "far::Away version 1 is not supported"),
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_unsupported_says_what_and_why(reason: str) -> None:
    body, opset, message = UNSUPPORTED[reason]
    model = parse("(float[2] x, float[4] s) => (float[2] y)", f"[bad] {body}", opset)
    (line,) = unsupported(model)
    assert 'node "bad"' in line
    assert "\n" not in line
    with pytest.raises(UnsupportedOperator, match=message) as caught:
        lower(model)
    assert str(caught.value) == line
    assert caught.value.hint


def test_unsupported_does_not_import_torch() -> None:
    program = """
import sys, onnx
from onnxdfq.engine.operators import unsupported
header = '<ir_version: 8, opset_import: ["" : 17]>'
model = onnx.parser.parse_model(header + "g (float x) => (float y) { y = Loop (x) }")
assert len(unsupported(model)) == 1
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})


ENTRIES = [entry for ranges in catalogue().values() for entry in ranges]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.domain}{entry.name}-{entry.since}")
def test_catalogue_agrees_with_the_functions(entry: Any) -> None:
    parameters = inspect.signature(entry.load()).parameters.values()
    positional = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert entry.inputs == positional
    assert entry.variadic == any(p.kind is p.VAR_POSITIONAL for p in parameters)
    assert entry.attributes.keys() | entry.facts == keywords
    assert entry.host | entry.frozen <= set(positional)
    assert entry.since <= entry.until


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.domain}{entry.name}-{entry.since}")
def test_signatures_cover_the_onnx_schema(entry: Any) -> None:
    """Attributes left out on purpose are reported; none may be made up or have another default."""
    if entry.domain:
        return
    keywords = {
        p.name: p.default for p in inspect.signature(entry.load()).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    known: dict[str, Any] = {}
    for version in range(entry.since, entry.until + 1):
        if onnx.defs.has(entry.name, version):
            schema = onnx.defs.get_schema(entry.name, version)
            known |= schema.attributes
            assert entry.variadic or len(schema.inputs) <= len(entry.inputs)
    assert entry.attributes.keys() <= known.keys()
    for name, attribute in known.items():
        if name in entry.attributes and attribute.default_value.name:
            declared = attribute_value(attribute.default_value)
            ours = keywords[name]
            assert (list(ours) if isinstance(ours, tuple) else ours) == pytest.approx(declared)


def test_models_run_under_autocast(net: onnx.ModelProto, image: np.ndarray) -> None:
    gm = lower(net)
    expected = gm(torch.from_numpy(image))[0]
    with torch.autocast("cpu", torch.bfloat16):
        logits = gm(torch.from_numpy(image))[0]
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.5)


def test_tapped_values_are_not_overwritten(net: onnx.ModelProto, image: np.ndarray) -> None:
    gm = lower(net)
    made = {node.meta["onnx_tensor"] for node in gm.graph.nodes if node.meta.get("disposable")}
    tapped = tap(gm, made)
    assert any(node.kwargs.get("overwrite") for node in gm.graph.nodes)
    assert not any(node.kwargs.get("overwrite") for node in tapped.graph.nodes)
    outputs, _ = tapped(torch.from_numpy(image))
    torch.testing.assert_close(outputs, gm(torch.from_numpy(image)), rtol=0, atol=0)


def test_statistics_that_are_shared_through_identity_are_not_trained() -> None:
    model = parse(
        "(float[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y)",
        "s = Identity (v) a = BatchNormalization (x, g, b, m, v) y = BatchNormalization (a, g, b, m, s)",
    )
    for name in "gbmv":
        model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), name))
    gm = lower(model)
    assert {name for name, _ in gm.named_parameters()} == {"g", "b"}
    gm(torch.ones(1, 2, 3, 3))[0].sum().backward()
