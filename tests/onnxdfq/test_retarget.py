"""Another target from ranges that were kept: as if the model had been quantized for it, and without an image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from onnxdfq.cli import main
from onnxdfq.config import Options
from onnxdfq.emit import RANGES_KEY
from onnxdfq.errors import OnnxdfqError
from onnxdfq.retarget import dequantized_graph, retarget
from onnxdfq.stages import images, ranges, weights
from passes.targets import TARGETS
from tests.onnxdfq.conftest import saved

DIGITS = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"
EVERY = [word for target in TARGETS for word in ("--target", target)]
INTEGERS = (np.int8, np.uint8, ml_dtypes.int4, ml_dtypes.int2)


def run(*arguments: object) -> None:
    assert main([str(each) for each in arguments]) == 0


def quantize(model: Path, output: Path, *options: object) -> None:
    """As can be done from ranges alone, if options do not say otherwise: weights to nearest, biases as they are."""
    plain = ("--no-bias-correction", "--rounding", "nearest", "--report", output.with_suffix(".json"))
    run("quantize", model, "--recipe", "fast", "--quiet", "-o", output, *plain, *options)


def values_of(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def wiring(path: Path) -> list[tuple[str, str, list[str], list[str]]]:
    return [(node.name, node.op_type, list(node.input), list(node.output)) for node in onnx.load(path).graph.node]


def answers(path: Path, feed: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: feed})
    return found


# -- as if it had been quantized for it


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("options", [(), ("--bits", "3", "--all-layers"), ("--bits", "2", "--compat")], ids=" ".join)
def test_a_float_model_and_a_report_give_the_same_bytes(options: tuple[str, ...], small: Path) -> None:
    folder = small.parent / "direct"
    folder.mkdir()
    quantize(small, folder, *EVERY, *options)
    for target in TARGETS:
        (direct,) = folder.glob(f"small.{target}.int*.onnx")
        made = small.parent / "made.onnx"
        run("retarget", small, "--ranges", folder.with_suffix(".json"), "--target", target, *options, "-o", made)
        assert made.read_bytes() == direct.read_bytes()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("bits", "sources"), [(8, ("ort-cpu", "tensorrt", "ort-cuda", "qnn")), (4, ("tensorrt",)), (2, ("ort-cpu",))]
)
def test_a_quantized_model_becomes_what_quantizing_would_have_made(
    bits: int, sources: tuple[str, ...], small: Path
) -> None:
    """But for biases that the source rounded to int32, and for weights that it had fewer bits for."""
    folder = small.parent / "direct"
    folder.mkdir()
    quantize(small, folder, *EVERY, "--bits", bits)
    made = small.parent / "made.onnx"
    for source in sources:
        for target in TARGETS:
            if TARGETS[target].weight_bits < TARGETS[source].weight_bits:
                continue  # the first and the last layer would be rounded twice
            origin, direct = (folder / f"small.{name}.int{bits}.onnx" for name in (source, target))
            run("retarget", origin, "--target", target, "-o", made)
            steps = {name: float(value.max()) for name, value in values_of(origin).items() if name.endswith("_scale")}
            assert wiring(made) == wiring(direct)
            ours, theirs = values_of(made), values_of(direct)
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                assert ours[name].dtype == value.dtype
                if value.dtype in INTEGERS:
                    np.testing.assert_array_equal(ours[name], value)
                else:
                    half = 0.51 * steps.get(f"{name}_scale", 0.0)  # what rounding to int32 may have taken from a bias
                    np.testing.assert_allclose(ours[name], value, rtol=1e-6, atol=half)


@pytest.mark.usefixtures("quick")
def test_one_bias_in_int32_is_all_that_ort_cpu_loses_for_tensorrt(small: Path) -> None:
    quantize(small, small.parent, "--target", "ort-cpu", "--target", "tensorrt")
    run("retarget", small.parent / "small.ort-cpu.int8.onnx", "--target", "tensorrt", "-o", small.parent / "made.onnx")
    ours, theirs = (values_of(small.parent / name) for name in ("made.onnx", "small.tensorrt.int8.onnx"))
    assert [name for name in theirs if not np.array_equal(ours[name], theirs[name])] == ["b4"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rounding", ["nearest", "squant", "gptq"])
def test_there_and_back_are_the_same_bytes(rounding: str, small: Path) -> None:
    here, there, back = (small.parent / name for name in ("here.onnx", "there.onnx", "back.onnx"))
    quantize(small, here, "--target", "ort-cpu", "--bits", 4, "--rounding", rounding)
    run("retarget", here, "--target", "openvino", "-o", there)
    run("retarget", there, "--target", "ort-cpu", "-o", back)
    assert back.read_bytes() == here.read_bytes()
    run("retarget", here, "--target", "ort-cpu", "-o", back, "--compat")
    assert back.stat().st_size > here.stat().st_size


@pytest.mark.usefixtures("quick")
def test_normalizations_branches_and_depthwise_layers(tmp_path: Path) -> None:
    quantize(DIGITS, tmp_path, "--target", "ort-cpu", "--target", "tensorrt")
    made = tmp_path / "made.onnx"
    run("retarget", tmp_path / "digits_mobilenet.ort-cpu.int8.onnx", "--target", "tensorrt", "-o", made)
    direct = tmp_path / "digits_mobilenet.tensorrt.int8.onnx"
    assert wiring(made) == wiring(direct)
    sizes = [dim.dim_value or 16 for dim in onnx.load(DIGITS).graph.input[0].type.tensor_type.shape.dim]
    feed = np.random.default_rng(0).uniform(0, 1, sizes).astype(np.float32)
    ours, theirs = answers(made, feed), answers(direct, feed)
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()
    run("retarget", DIGITS, "--ranges", tmp_path.with_suffix(".json"), "--target", "tensorrt", "-o", made)
    assert made.read_bytes() == direct.read_bytes()


# -- weights are rounded once


def weights_of(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Codes and scales of each layer's weights."""
    held, model = values_of(path), onnx.load(path)
    found = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            name = node.output[0].removesuffix("_dequantized")
            source = next((each.input[0] for each in model.graph.node if node.input[0] in each.output), node.input[0])
            if source in held and held[source].ndim > 1:
                found[name] = (held[source].astype(np.int16), held[node.input[1]])
    return found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("source", "target", "options"),
    [("ort-cpu", "tensorrt", ("--bits", 4)), ("ort-cpu", "tensorrt", ("--bits", "2/6", "--act-bits", "none")),
     ("tensorrt", "openvino", ("--bits", 2, "--all-layers")), ("tensorrt", "ort-cpu", ("--scales", "lp")),
     ("ort-cpu-avx2", "qnn", ()), ("ort-cuda", "ort-cpu", ("--bits", 4)),
     ("ort-cpu", "ort-cpu-avx2", ("--bits", 4, "--all-layers"))],
)  # fmt: skip
def test_codes_and_scales_of_the_file_stay(source: str, target: str, options: tuple[str, ...], small: Path) -> None:
    here, there = small.parent / "here.onnx", small.parent / "there.onnx"
    quantize(small, here, "--target", source, "--rounding", "gptq", *options)
    run("retarget", here, "--target", target, "-o", there)
    before, after = weights_of(here), weights_of(there)
    assert before.keys() == after.keys() == {"w1", "w2", "w3", "w4"}
    for name, (codes, scale) in before.items():
        np.testing.assert_array_equal(after[name][0], codes)
        np.testing.assert_array_equal(after[name][1], scale)


@pytest.mark.usefixtures("quick")
def test_weights_that_need_fewer_bits_get_other_scales(small: Path) -> None:
    here, there = small.parent / "here.onnx", small.parent / "there.onnx"
    quantize(small, here, "--target", "tensorrt", "--rounding", "gptq")
    run("retarget", here, "--target", "ort-cpu-avx2", "-o", there)
    for codes, _ in weights_of(here).values():
        assert np.abs(codes).max() == 127
    for codes, _ in weights_of(there).values():
        assert codes.min() >= -64
        assert codes.max() <= 63
        assert codes.min() == -64 or codes.max() == 63


@pytest.mark.usefixtures("quick")
def test_one_scale_and_one_for_each_channel(tmp_path: Path) -> None:
    model = saved("""g (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) {
        a = Conv (x, u) b = ConvTranspose (a, w) y = Conv (b, v)
    }""", dict.fromkeys("uvw", (16, 16, 1, 1)), tmp_path / "up.onnx")  # fmt: skip
    here, there, back = (tmp_path / name for name in ("here.onnx", "there.onnx", "back.onnx"))
    options = ("--bits", 4, "--rounding", "gptq", "--scales", "mse")
    quantize(model, here, "--target", "openvino", *options)
    run("retarget", here, "--target", "tensorrt", "-o", there)
    assert [weights_of(path)["w"][1].shape for path in (here, there)] == [(16,), ()]
    np.testing.assert_array_equal(weights_of(there)["u"][0], weights_of(here)["u"][0])
    quantize(model, here, "--target", "qnn", *options)
    run("retarget", here, "--target", "tensorrt", "-o", there)  # one scale here and there
    run("retarget", there, "--target", "qnn", "-o", back)
    for path in (there, back):
        for name, (codes, scale) in weights_of(here).items():
            np.testing.assert_array_equal(weights_of(path)[name][0], codes)
            np.testing.assert_array_equal(weights_of(path)[name][1], scale)


@pytest.mark.usefixtures("quick")
def test_scales_are_raised_where_the_bias_would_not_fit(small: Path) -> None:
    model = onnx.load(small)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name in ("w2", "b2"):
            values[3] = 1e-9 * values[3] if tensor.name == "w2" else 5.0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, small)
    here, there, direct = (small.parent / name for name in ("here.onnx", "there.onnx", "direct.onnx"))
    quantize(small, here, "--target", "ort-cuda", "--rounding", "gptq")  # biases stay in float there
    quantize(small, direct, "--target", "ort-cpu")
    run("retarget", here, "--target", "ort-cpu", "-o", there)
    source, made = weights_of(here)["w2"], weights_of(there)["w2"]
    assert made[1][3] == weights_of(direct)["w2"][1][3] > source[1][3]
    others = np.arange(16) != 3
    np.testing.assert_array_equal(made[0][others], source[0][others])
    np.testing.assert_array_equal(made[1][others], source[1][others])


@pytest.mark.usefixtures("quick")
def test_corrected_biases_come_along(small: Path) -> None:
    run("quantize", small, "--recipe", "fast", "--quiet", "--target", "tensorrt", "--bits", 2, "--all-layers",
        "-o", small.parent / "here.onnx")  # fmt: skip
    run("retarget", small.parent / "here.onnx", "--target", "openvino", "-o", small.parent / "there.onnx")
    before, here, there = (values_of(small.parent / name) for name in ("small.onnx", "here.onnx", "there.onnx"))
    assert not np.array_equal(here["b2"], before["b2"])
    for name in ("b1", "b2", "b4"):
        np.testing.assert_array_equal(there[name], here[name])


@pytest.mark.usefixtures("quick")
def test_outputs_keep_their_names_where_they_were_written_in_integers(tmp_path: Path) -> None:
    text = """g (float[N, 16, H, W] x) => (float[N, 16, H, W] y, float[N, 16, H, W] z) {
        a = Conv (x, u) y = Conv (a, v) z = Conv (y, w)
    }"""
    model = saved(text, dict.fromkeys("uvw", (16, 16, 1, 1)), tmp_path / "ends.onnx")
    quantize(model, tmp_path, "--target", "qnn", "--target", "tensorrt", "--input-shape", "1x16x8x8")
    for source, target in (("qnn", "tensorrt"), ("tensorrt", "qnn")):
        run("retarget", tmp_path / f"ends.{source}.int8.onnx", "--target", target, "-o", tmp_path / "made.onnx")
        assert (tmp_path / "made.onnx").read_bytes() == (tmp_path / f"ends.{target}.int8.onnx").read_bytes()


@pytest.mark.usefixtures("quick")
def test_no_image_is_made_and_nothing_is_calibrated(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize(small, small.parent / "here.onnx", "--target", "ort-cpu")

    def never(*arguments: object) -> None:
        raise AssertionError("called")

    parts = {images: ("procedural", "infer_domain"), ranges: ("observe",),
             weights: ("channel_means", "correct_biases", "round_layer_by_layer")}  # fmt: skip
    for stage, names in parts.items():
        for name in names:
            monkeypatch.setattr(stage, name, never)
    run("retarget", small.parent / "here.onnx", "--target", "qnn", "-o", small.parent / "there.onnx")
    report = small.parent / "here.json"
    run("retarget", small, "--ranges", report, "--target", "qnn", "-o", small.parent / "there.onnx")


# -- what is printed and where it goes


@pytest.mark.usefixtures("quick")
def test_names_of_files(small: Path) -> None:
    quantize(small, small.parent / "small.ort-cpu.int4.onnx", "--target", "ort-cpu", "--bits", 4)
    quantize(small, small.parent / "mine.v2.onnx", "--target", "ort-cpu")
    for name in ("2-6", "4.8"):
        (small.parent / f"small.ort-cpu.int{name}.onnx").write_bytes((small.parent / "mine.v2.onnx").read_bytes())
    for model, made in [("small.ort-cpu.int4", "small.tensorrt.int4"), ("mine.v2", "mine.v2.tensorrt.int8"),
                        ("small.ort-cpu.int2-6", "small.tensorrt.int2-6"),
                        ("small.ort-cpu.int4.8", "small.tensorrt.int4.8")]:  # fmt: skip
        run("retarget", small.parent / f"{model}.onnx", "--target", "tensorrt")
        assert (small.parent / f"{made}.onnx").is_file()


@pytest.mark.usefixtures("quick")
def test_weights_and_activations_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved("g (float[1, 3, 8, 8] x) => (float[1, 16, 8, 8] y) { a = Conv (x, u) y = Conv (a, v) }",
                  {"u": (16, 3, 1, 1), "v": (16, 16, 1, 1)}, tmp_path / "two.onnx")  # fmt: skip
    quantize(model, tmp_path / "here.onnx", "--target", "tensorrt")
    capsys.readouterr()
    for target, said in [("ort-cpu", "2 weights and 3 activations"), ("openvino", "2 weights and 2 activations"),
                         ("ort-cuda", "2 weights and 0 activations")]:  # fmt: skip
        run("retarget", tmp_path / "here.onnx", "--target", target)
        assert said in capsys.readouterr().out


# -- what cannot be retargeted


def with_metadata(path: Path, text: str | None) -> Path:
    model = onnx.load(path)
    helper.set_model_props(model, {} if text is None else {RANGES_KEY: text})
    onnx.save(model, path)
    return path


@pytest.fixture
def here(small: Path, quick: None) -> Path:
    quantize(small, small.parent / "here.onnx", "--target", "ort-cpu")
    return small.parent / "here.onnx"


DAMAGED = ["", "{", "[]", "3", '{"image": 3}', '{"image": [1, 2, 3]}', '{"image": ["a", "b"]}', '{"image": [NaN, 1]}',
           '{"image": [-1, Infinity]}']  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_stored_ranges_that_are_damaged(text: str, here: Path, fails: Callable[..., str]) -> None:
    assert "the ranges in" in fails("retarget", with_metadata(here, text), "--target", "tensorrt")


@pytest.mark.parametrize("text", [None, "{}"])
def test_a_quantized_model_without_ranges(text: str | None, here: Path, fails: Callable[..., str]) -> None:
    line = fails("retarget", with_metadata(here, text), "--target", "tensorrt")
    assert "holds no ranges: another tool made it" in line
    assert "--ranges REPORT.json" in line


def test_ranges_from_a_report_serve_a_quantized_model_too(here: Path) -> None:
    report = here.with_suffix(".json")
    run("retarget", here, "--target", "qnn", "-o", here.parent / "one.onnx")
    run("retarget", with_metadata(here, None), "--target", "qnn", "--ranges", report, "-o", here.parent / "two.onnx")
    assert (here.parent / "one.onnx").read_bytes() == (here.parent / "two.onnx").read_bytes()


def test_a_tensor_whose_range_is_not_known(here: Path, fails: Callable[..., str]) -> None:
    data = json.loads(here.with_suffix(".json").read_text())
    del data["ranges"]["r"]
    here.with_suffix(".json").write_text(json.dumps(data))
    line = fails("retarget", here.parent / "small.onnx", "--ranges", here.with_suffix(".json"), "--target", "tensorrt")
    assert "no range is known of r. quantize the float model for tensorrt instead" in line


@pytest.mark.usefixtures("quick")
def test_layers_are_not_paired_again(small: Path) -> None:
    with pytest.raises(OnnxdfqError, match="layers are paired when a model is quantized"):
        retarget(small, Options(bits=(4, 8), targets=("ort-cpu",)))


@pytest.mark.usefixtures("quick")
def test_ranges_of_a_model_that_was_equalized(small: Path, fails: Callable[..., str]) -> None:
    here = small.parent / "here.onnx"
    quantize(small, here, "--target", "ort-cpu", "--equalize")
    report = ("--ranges", here.with_suffix(".json"))
    line = fails("retarget", small, *report, "--target", "tensorrt")
    assert line.endswith(
        f"{report[1]} does not fit {small}: its layers were equalized. give the quantized model instead"
    )
    run("retarget", here, "--target", "tensorrt", "-o", small.parent / "there.onnx")
    run("retarget", here, *report, "--target", "tensorrt", "-o", small.parent / "same.onnx")
    assert (small.parent / "there.onnx").read_bytes() == (small.parent / "same.onnx").read_bytes()


@pytest.mark.usefixtures("quick")
def test_a_float_model_without_a_report(small: Path, fails: Callable[..., str]) -> None:
    line = fails("retarget", small, "--target", "tensorrt")
    assert "is a float model" in line
    assert "--ranges REPORT.json" in line


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("content", "said"),
    [*((each, "holds no ranges") for each in ("{", "[]", "{}", '{"ranges": 3}', '{"ranges": {"image": [0]}}')),
     ('{"ranges": {}}', "no range is known of image")],
)  # fmt: skip
def test_reports_without_ranges(content: str, said: str, small: Path, fails: Callable[..., str]) -> None:
    (small.parent / "report.json").write_text(content)
    line = fails("retarget", small, "--target", "ort-cpu", "--ranges", small.parent / "report.json")
    assert said in line


@pytest.mark.usefixtures("quick")
def test_a_report_that_is_not_there(small: Path, fails: Callable[..., str]) -> None:
    for path in (small.parent / "missing.json", small.parent):
        assert "does not exist" in fails("retarget", small, "--target", "ort-cpu", "--ranges", path)


def test_a_model_that_computes_in_integers_without_pairs(tmp_path: Path, fails: Callable[..., str]) -> None:
    text = """g (float[1, 4] x) => (float[1, 4] y) {
        q, s, z = DynamicQuantizeLinear (x) i = MatMulInteger (q, w, z) y = Cast <to = 1> (i)
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.int8), "w"))
    onnx.save(model, tmp_path / "dynamic.onnx")
    with_metadata(tmp_path / "dynamic.onnx", '{"x": [-1, 1]}')
    line = fails("retarget", tmp_path / "dynamic.onnx", "--target", "tensorrt")
    assert "computes in integers otherwise than by Q/DQ pairs" in line


@pytest.mark.usefixtures("quick")
def test_a_model_in_float16(small: Path, fails: Callable[..., str]) -> None:
    quantize(small, small.parent / "half.onnx", "--target", "tensorrt", "--float-type", "fp16")
    assert "is in float16" in fails("retarget", small.parent / "half.onnx", "--target", "tensorrt")


def test_a_target_that_has_no_layer_for_it(tmp_path: Path, quick: None) -> None:
    model = saved("g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = ConvTranspose (x, w) }",
                  {"w": (3, 3, 1, 1)}, tmp_path / "up.onnx")  # fmt: skip
    quantize(model, tmp_path / "here.onnx", "--target", "tensorrt")
    with pytest.raises(OnnxdfqError, match="no layer that can be quantized for ort-cpu"):
        retarget(tmp_path / "here.onnx", Options(targets=("ort-cpu",)))


def test_scales_may_stand_in_constant_nodes(tmp_path: Path) -> None:
    text = """g (float[1, 4] x) => (float[1, 2] y) {
        s = Constant <value = float {0.5}> () z = Constant <value = int8 {0}> ()
        xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z)
        c = Constant <value = int8[4,2] {1, 2, 3, 4, -5, 6, 7, 3}> () w = DequantizeLinear (c, s, z) y = MatMul (xd, w)
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    graph, stored = dequantized_graph(model, tmp_path / "constants.onnx")
    assert {name: (params.bits, params.scale, params.axis) for name, params in stored.items()} == {
        "w": (4, (0.5,), None)  # -5..7
    }
    assert [node.op for node in graph.nodes] == ["MatMul"]
    np.testing.assert_array_equal(graph.nodes[0].inputs[1].values[0], [0.5, 1])
