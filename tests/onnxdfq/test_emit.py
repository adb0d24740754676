"""What every written model has: integers, the interface and metadata it came with, and ranges for later."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxdfq.config import Options
from onnxdfq.emit import RANGES_KEY, finished, restore_interface, rounded, with_qdq
from passes.base import run_passes
from passes.canonicalize import CANONICAL
from passes.placement import place
from passes.plan import QuantPlan, decide
from passes.targets import TARGETS

TEXT = """mine (float[N, 16, H, W] x) => (float[N, 16, H, W] y, float[N, 4] z) {
    a = Conv (x, w1, b1) r = Relu (a) y = Conv (r, w2) p = GlobalAveragePool (y) f = Flatten (p) z = Gemm (f, w3, b3)
}"""
SHAPES = {"w1": (16, 16, 1, 1), "b1": (16,), "w2": (16, 16, 1, 1), "w3": (16, 4), "b3": (4,)}


def model_of(text: str = TEXT, opset: int = 17) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}], producer_name: "someone"> {text}')
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name))
    model.graph.input[0].doc_string = "an image"
    helper.set_model_props(model, {"author": "me", RANGES_KEY: "{}"})
    return model


def made(
    target: str, bits: int = 8, text: str = TEXT, **options: object
) -> tuple[onnx.ModelProto, onnx.ModelProto, QuantPlan, list[str], dict[str, tuple[float, float]]]:
    """The original, the result, its plan, what could not be done, and the ranges."""
    original = model_of(text)
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(original))
    run_passes(graph, CANONICAL)
    placed = place(graph, TARGETS[target])
    ranges = {name: (-1.0, 3.0 + k) for k, name in enumerate(sorted(placed.tensors))}
    plan = decide(graph, ranges, TARGETS[target], bits, placed)
    canonical = gs.export_onnx(graph)
    before = canonical.SerializeToString()
    quantized = with_qdq(canonical, plan)
    assert canonical.SerializeToString() == before
    result, skips = finished(quantized, plan, original, ranges, Options(**options))  # type: ignore[arg-type]
    onnx.checker.check_model(result, full_check=True)
    return original, result, plan, [skip.reason for skip in skips], ranges


def types(model: onnx.ModelProto) -> dict[str, str]:
    return {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}


@pytest.mark.parametrize("target", TARGETS)
def test_the_interface_and_the_metadata_are_those_of_the_original(target: str) -> None:
    original, result, _, skips, ranges = made(target)
    assert list(result.graph.input) == list(original.graph.input)
    assert list(result.graph.output) == list(original.graph.output)
    assert (result.graph.name, result.producer_name) == ("mine", "onnxdfq")
    metadata = {entry.key: entry.value for entry in result.metadata_props}
    assert metadata.keys() == {"author", RANGES_KEY}
    assert metadata["author"] == "me"
    assert {name: tuple(pair) for name, pair in json.loads(metadata[RANGES_KEY]).items()} == ranges
    assert skips == []


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_integers_and_so_are_biases_where_the_target_wants_it(target: str) -> None:
    _, result, plan, _, _ = made(target)
    found = types(result)
    for name in ("w1", "w2", "w3"):
        assert name not in found
        assert found[f"{name}_quantized"] == "INT8"
    written = TARGETS[target].int32_bias_written
    assert ("b1_quantized" in found) is ("Conv" in written)
    assert ("b3_quantized" in found) is ("Gemm" in written)
    quantizers = [node.input[0] for node in result.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == len(plan.readers)


def test_until_it_is_finished_weights_are_float() -> None:
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model_of()))
    run_passes(graph, CANONICAL)
    plan = decide(graph, dict.fromkeys(place(graph, TARGETS["ort-cpu"]).tensors, (-1.0, 1.0)), TARGETS["ort-cpu"])
    model = with_qdq(gs.export_onnx(graph), plan)
    assert {types(model)[name] for name in SHAPES} == {"FLOAT"}
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == len(plan.tensors)


@pytest.mark.parametrize(
    ("bits", "container", "opset"),
    [(2, "INT2", 25), (3, "INT4", 21), (4, "INT4", 21), (5, "INT8", 17), (8, "INT8", 17)],
)
def test_few_bits_are_packed_in_the_oldest_opset_that_can(bits: int, container: str, opset: int) -> None:
    _, result, _, skips, _ = made("ort-cpu", bits)
    held = [kind for kind in types(result).values() if kind in ("INT2", "INT4", "INT8")]
    assert held.count(container) >= 3
    assert result.opset_import[0].version == opset
    assert skips == []


@pytest.mark.parametrize(("target", "options"), [("ort-cpu", {"compat": True}), ("tensorrt", {}), ("qnn", {})])
def test_elsewhere_they_stay_in_eight(target: str, options: dict[str, bool]) -> None:
    _, result, _, _, _ = made(target, 2, **options)
    assert {"INT2", "INT4"}.isdisjoint(types(result).values())
    assert result.opset_import[0].version == 17


def test_what_could_not_be_done_is_told() -> None:
    text = TEXT.replace("p = GlobalAveragePool (y)", "p = GlobalLpPool (y)")
    _, result, _, skips, _ = made("ort-cpu", 2, text)
    assert result.opset_import[0].version == 21
    assert len(skips) == 3
    assert {reason.split(": ")[1] for reason in skips} == {"the runtime has no GlobalLpPool of opset 25"}


def test_half_precision_has_scales_in_half_precision() -> None:
    original, result, _, _, _ = made("tensorrt", targets=("tensorrt",), float_type="float16")
    assert types(result)["w1_scale"] == "FLOAT16"
    assert list(result.graph.output) == list(original.graph.output)
    assert result.opset_import[0].version >= 19


def test_ranges_are_rounded_to_less_than_a_step_and_in_order() -> None:
    ranges = {"b": (-1.23456789, 640.123456), "a": (0.0, 1e-12), "c": (-0.000123456789, 5e9)}
    found = rounded(ranges)
    assert list(found) == ["a", "b", "c"]
    assert found["b"] == (-1.23457, 640.123)
    assert rounded(found) == found
    for name, (low, high) in ranges.items():
        step = (high - low) / 255
        assert max(abs(found[name][0] - low), abs(found[name][1] - high)) < step / 100


def test_weights_that_were_listed_as_inputs_are_inputs_no_more() -> None:
    original, result = model_of(), model_of()
    original.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, SHAPES["w1"]))
    result.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    restore_interface(result, original)
    assert [entry.name for entry in result.graph.input] == ["x"]
    assert result.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
