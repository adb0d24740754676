"""The whole way from a float model to files: what runs in integers, what accuracy is left, what is guarded."""

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

import onnxdfq
from digits import held_out
from onnxdfq import simplify

DIGITS = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shipped model for both targets, with held-out accuracy in the report."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = held_out()
    np.savez(folder / "digits.npz", images=images, labels=labels)
    targets = ("tensorrt", "ort-cpu")
    return onnxdfq.quantize(DIGITS, target=targets, recipe="fast", evaluate=folder / "digits.npz", output=folder)


def kernels(model: onnx.ModelProto, tmp_path: Path) -> Counter[str]:
    """How many of each operator onnxruntime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


def saved(text: str, shapes: dict[str, tuple[int, ...]], path: Path) -> Path:
    model = parser.parse_model(text)
    rng = np.random.default_rng(1)
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name))
    onnx.save(model, path)
    return path


def test_accuracy_is_kept_on_both_targets(both: Any) -> None:
    assert both.report.accuracy > 99
    for target in both.report.targets.values():
        assert target.accuracy > both.report.accuracy - 0.5
        assert target.agreement.top1 > 90


def test_every_convolution_runs_in_integers_on_ort_cpu(both: Any, tmp_path: Path) -> None:
    found = kernels(both.models["ort-cpu"], tmp_path)
    assert found["QLinearConv"] == 17
    assert found["QGemm"] == 1
    assert found["QLinearAdd"] == 3
    assert not found["Conv"]
    assert not found["FusedConv"]


def test_the_tensorrt_file_is_symmetric_int8_with_float_biases(both: Any) -> None:
    model = both.models["tensorrt"]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = values[node.input[1]], values[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert (scale > 0).all()
            assert scale.ndim == 0 or any(each.name == "axis" for each in node.attribute)
        if node.op_type in ("Conv", "Gemm"):
            assert values[node.input[2]].dtype == np.float32
    outputs = {entry.name for entry in model.graph.output}
    assert not any(node.op_type == "DequantizeLinear" and node.output[0] in outputs for node in model.graph.node)


def test_several_targets_at_once_decide_as_one_by_one(both: Any) -> None:
    """Not to the last bit: what else is measured in the same pass changes how the runtime orders its sums."""
    for name, together in both.report.targets.items():
        alone = onnxdfq.quantize(DIGITS, target=name, recipe="fast").report.targets[name]
        assert alone.plan.readers == together.plan.readers
        for tensor, params in alone.plan.tensors.items():
            np.testing.assert_allclose(params.scale, together.plan.tensors[tensor].scale, rtol=1e-4)


def test_weights_take_a_quarter(both: Any) -> None:
    for target in both.report.targets.values():
        assert target.size < 0.45 * both.report.size


def test_channels_last_and_raw_pixels(tmp_path: Path) -> None:
    path = saved(
        """<ir_version: 8, opset_import: ["" : 12]>
        g (float[1, 24, 24, 3] image) => (float[1, 6] scores) {
            x = Transpose<perm = [0, 3, 1, 2]>(image)
            a = Conv<pads = [0, 0, 1, 1], strides = [2, 2]>(x, w1, b1)
            r = Relu(a)
            p = GlobalAveragePool(r)
            s = Conv(p, w2, b2)
            scores = Flatten(s)
        }""",
        {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (6, 16, 1, 1), "b2": (6,)},
        tmp_path / "last.onnx",
    )
    done = onnxdfq.quantize(path, target="ort-cpu", recipe="fast", domain="raw255")
    assert "NHWC" in done.report.input
    assert done.report.domain.startswith("raw255: values 0..255")
    assert [size.dim_value for size in done.models["ort-cpu"].graph.input[0].type.tensor_type.shape.dim] == [
        1,
        24,
        24,
        3,
    ]
    assert kernels(done.models["ort-cpu"], tmp_path)["QLinearConv"] == 1


def test_free_height_and_width_stay_free(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 1, H, W] image) => (float[N, 4, H, W] features) {
        a = Conv<pads = [1, 1, 1, 1]>(image, w1)
        r = Relu(a)
        features = Conv<pads = [1, 1, 1, 1]>(r, w2)
    }"""
    path = saved(text, {"w1": (16, 1, 3, 3), "w2": (4, 16, 3, 3)}, tmp_path / "free.onnx")
    done = onnxdfq.quantize(path, target=("ort-cpu", "tensorrt"), recipe="fast", input_shape=(1, 1, 40, 56))
    session = onnxruntime.InferenceSession(
        done.models["ort-cpu"].SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (features,) = session.run(None, {"image": np.zeros((2, 1, 31, 17), np.float32)})
    assert features.shape == (2, 4, 31, 17)
    assert [entry.shape for entry in session.get_inputs()] == [["N", 1, "H", "W"]]
    assert done.report.targets["ort-cpu"].agreement.top1 is None
    assert done.report.targets["ort-cpu"].agreement.sqnr["features"] > 25


def test_a_batch_that_the_model_insists_on(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[20, 3, 224, 224] image) => (float[20, 5] scores) {
        a = Conv<strides = [8, 8]>(image, w1)
        r = Relu(a)
        p = GlobalAveragePool(r)
        f = Reshape(p, shape)
        scores = MatMul(f, w2)
    }"""
    path = saved(text, {"w1": (16, 3, 8, 8), "w2": (16, 5)}, tmp_path / "fixed.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([20, 16]), "shape"))
    onnx.save(model, path)
    done = onnxdfq.quantize(path, target=("ort-cpu", "tensorrt"), recipe="fast")
    assert done.report.targets["ort-cpu"].agreement.images == 20 + 40 + 40
    assert done.report.images.startswith("40 for calibration, 20 held out")


def test_a_simplifier_that_crashes_is_only_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    crashed = subprocess.CompletedProcess([], -11)
    monkeypatch.setattr(simplify.subprocess, "run", lambda *arguments, **options: crashed)
    done = onnxdfq.quantize(DIGITS, target="ort-cpu", recipe="fast")
    assert "not simplified: onnxsim ended with code -11" in done.report.notices
    assert done.report.targets["ort-cpu"].layers == 18


def test_a_simplifier_that_changes_the_numbers_is_not_believed() -> None:
    model = onnx.load(DIGITS)
    answers = iter([[np.ones(3)], [np.zeros(3)]])
    result, reason = simplify.simplified(model, lambda each: next(answers))
    assert result is model
    assert reason == "the result computes something else"


def test_an_input_of_bytes(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (uint8[N, 3, 32, 32] image) => (float[N, 5] scores) {
        x = Cast<to = 1>(image)
        a = Conv(x, w1)
        r = Relu(a)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        scores = MatMul(f, w2)
    }"""
    path = saved(text, {"w1": (16, 3, 3, 3), "w2": (16, 5)}, tmp_path / "bytes.onnx")
    done = onnxdfq.quantize(path, target="ort-cpu", recipe="fast")
    assert done.report.domain.startswith("raw255")
    assert done.report.targets["ort-cpu"].agreement.sqnr["scores"] > 25


def test_weights_that_the_body_of_an_if_reads_too_stay_as_they_are(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 16, 16, 16] image, bool flag) => (float[1, 16, 14, 14] y) {
        a = Conv(image, w)
        b = BatchNormalization(a, gamma, beta, mean, variance)
        y = If(flag) <then_branch = t () => (float[1, 16, 14, 14] u) { c = Conv(image, w) u = Add(c, b) },
                      else_branch = e () => (float[1, 16, 14, 14] v) { v = Identity(b) }>
    }"""
    shapes = {"w": (16, 16, 3, 3), "gamma": (16,), "beta": (16,), "mean": (16,)}
    path = saved(text, shapes, tmp_path / "if.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.full(16, 0.5, np.float32), "variance"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    del model.graph.input[1]
    onnx.save(model, path)
    done = onnxdfq.quantize(path, target="ort-cpu", recipe="fast")
    assert done.report.targets["ort-cpu"].agreement.sqnr["y"] > 25


def test_names_that_the_model_has_already(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 3, 16, 16] x) => (float[1, 4, 12, 12] y) { x_scale = Conv(x, w1) y = Conv(x_scale, w2) }"""
    path = saved(text, {"w1": (16, 3, 3, 3), "w2": (4, 16, 3, 3)}, tmp_path / "names.onnx")
    done = onnxdfq.quantize(path, target=("ort-cpu", "tensorrt"), recipe="fast")
    assert done.report.targets["ort-cpu"].agreement.sqnr["y"] > 25


def test_a_pool_that_gives_indices_too(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 3, 16, 16] x) => (float[1, 4, 5, 5] y, int64[1, 16, 7, 7] places) {
        a = Conv(x, w1)
        p, places = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
        y = Conv(p, w2)
    }"""
    path = saved(text, {"w1": (16, 3, 3, 3), "w2": (4, 16, 3, 3)}, tmp_path / "pool.onnx")
    done = onnxdfq.quantize(path, target=("ort-cpu", "tensorrt"), recipe="fast")
    assert done.report.targets["tensorrt"].agreement.sqnr["y"] > 25


LAYERS = {"w": (16, 3, 3, 3), "b": (16,), "v": (16, 16, 1, 1), "m": (16, 8)}
BODY = "a = Conv(x, w, b) r = Relu(a) e = Conv(r, v) p = GlobalAveragePool(e) f = Flatten(p)"
SEVERAL_INPUTS = {
    "two images": (
        """(float[N, 3, 12, 12] x, float[N, 3, 12, 12] z) => (float[N, 8] y) {
            a = Conv(x, w, b) r = Relu(a) c = Conv(z, w, b) s = Relu(c) d = Sub(r, s)
            e = Conv(d, v) p = GlobalAveragePool(e) f = Flatten(p) y = MatMul(f, m) }""",
        {},
        "the next image",
    ),
    "a mask": (
        """(float[N, 1, 12, 12] mask, float[N, 3, 12, 12] x) => (float[N, 16, 12, 12] y) {
            t = Mul(x, mask) c = Concat<axis = 1>(t, mask) a = Conv<pads = [1, 1, 1, 1]>(c, w, b) r = Relu(a)
            y = Conv(r, v) }""",
        {"w": (16, 4, 3, 3)},
        "grey images, 0 to 1",
    ),
    "a size": (
        f"""(float[1, 3, 12, 12] x, float[1, 2] im_info) => (float[1, 8, 2] y) {{
            {BODY} g = MatMul(f, k) h = Sigmoid(g) q = Reshape(h, shape) y = Mul(q, im_info) }}""",
        {"k": (16, 16)},
        "the height and width of the image",
    ),
    "indices": (
        f"""(float[N, 3, 12, 12] x, int64[N] z) => (float[N, 8] y) {{
            {BODY} t = Gather(k, z) u = Add(f, t) y = MatMul(u, m) }}""",
        {"k": (2, 16)},
        "random zeros and ones",  # larger ones are no rows of the table
    ),
}


@pytest.mark.parametrize("kind", SEVERAL_INPUTS)
def test_a_model_with_several_inputs(kind: str, tmp_path: Path) -> None:
    text, shapes, words = SEVERAL_INPUTS[kind]
    path = saved(f'<ir_version: 8, opset_import: ["" : 17]> g {text}', LAYERS | shapes, tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.int64([1, 8, 2]), "shape"))
    onnx.save(model, path)
    done = onnxdfq.quantize(path, target="ort-cpu", recipe="fast")
    inputs = [entry.name for entry in model.graph.input]
    assert [entry.name for entry in done.models["ort-cpu"].graph.input] == inputs
    assert any(notice.endswith(words) for notice in done.report.notices)
    found = done.report.targets["ort-cpu"]
    assert found.layers == found.of
    assert found.agreement.sqnr["y"] > 25
    assert {"mask", "im_info"} & set(inputs) <= done.report.ranges.keys()
    if kind == "two images":  # both have the range of the domain
        assert done.report.ranges["x"] == done.report.ranges["z"]
    if kind == "a size":  # in integers it would end where the calibration images do
        assert not {"im_info", "y"} & found.plan.tensors.keys()


def test_arrays_for_other_inputs_stay_with_their_images(tmp_path: Path) -> None:
    """Each row holds what the model computes from its image: the difference tells rows that went astray."""
    path = saved(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 12, 12] x, float[N, 16] z) => (float[N, 8] y) {
            a = Conv(x, w, b) p = GlobalMaxPool(a) f = Flatten(p) d = Sub(f, z) y = MatMul(d, m)
        }""",
        {"w": (16, 3, 3, 3), "b": (16,), "m": (16, 8)},
        tmp_path / "model.onnx",
    )
    images = np.random.default_rng(0).integers(0, 256, (30, 12, 12, 3)).astype(np.uint8)
    images //= np.arange(1, 31, dtype=np.uint8)[:, None, None, None]
    maximum = onnx.load(path)
    maximum.graph.output[0].name = "f"
    maximum.graph.input.pop()
    while maximum.graph.node[-1].op_type != "Flatten":
        maximum.graph.node.pop()
    session = onnxruntime.InferenceSession(maximum.SerializeToString(), providers=["CPUExecutionProvider"])
    (beside,) = session.run(None, {"x": images.transpose(0, 3, 1, 2).astype(np.float32)})
    np.savez(tmp_path / "images.npz", images=images, z=beside)
    done = onnxdfq.quantize(path, target="ort-cpu", recipe="fast", images=tmp_path / "images.npz", domain="raw255")
    low, high = done.report.ranges["d"]
    assert max(-low, high) < 1e-3 * done.report.ranges["f"][1]
    np.savez(tmp_path / "images.npz", images=images, z=beside[1:])
    with pytest.raises(onnxdfq.errors.OnnxdfqError, match="29 rows for 30 images"):
        onnxdfq.quantize(path, target="ort-cpu", recipe="fast", images=tmp_path / "images.npz")
