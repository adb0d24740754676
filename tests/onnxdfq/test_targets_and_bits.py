"""Every target and every number of bits, from file to file: it loads, it agrees, and has the bits asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

import onnxdfq
from passes.pack_weights import bits_of
from passes.remove_qdq import constant_codes
from passes.targets import TARGETS
from tests.onnxdfq.conftest import saved

DIGITS = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"
ENOUGH = 20.0  # dB between the float model and a quantized one, on images from its domain

BRANCHES = """branches (float[N, 3, 16, 16] image) => (float[N, 4] scores, float[N, 16, 16, 16] map) {
    a = Conv<pads = [1, 1, 1, 1]>(image, w1, b1) r = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(r, w2, b1) s = Add(c, r) t = Relu(s)
    d = Conv<group = 16, pads = [1, 1, 1, 1]>(t, w3) e = Sigmoid(d) m = Mul(d, e)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(m) u = ConvTranspose<strides = [2, 2]>(p, w4)
    j = Concat<axis = 1>(u, t) map = Conv(j, w5)
    g = GlobalAveragePool(map) f = Flatten(g) h = MatMul(f, w6) scores = Add(h, b6)
}"""
SHAPES = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "w3": (16, 1, 3, 3), "w4": (16, 16, 2, 2),
          "w5": (16, 32, 1, 1), "w6": (16, 4), "b6": (4,)}  # fmt: skip


def answers(path: Path, images: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"image": images})


def decibels(expected: np.ndarray, computed: np.ndarray) -> float:
    return float(10 * np.log10((expected**2).sum() / ((expected - computed) ** 2).sum()))


def codes_of(path: Path) -> dict[str, np.ndarray]:
    """The integer weights of each layer."""
    found = {}
    for node in gs.import_onnx(onnx.load(path)).nodes:
        if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and node.inputs[1].inputs:
            codes = constant_codes(node.inputs[1].inputs[0].inputs[0])
            assert codes is not None
            found[node.name] = codes.astype(np.int32)
    return found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_agrees_with_the_float_model(target: str, tmp_path: Path) -> None:
    model, made = saved(BRANCHES, SHAPES, tmp_path / "branches.onnx"), tmp_path / "made.onnx"
    done = onnxdfq.quantize(model, target=target, recipe="fast", domain="imagenet", output=made)
    rng = np.random.default_rng(5)
    images = rng.normal(0, 0.5, (4, 3, 1, 1)) + rng.normal(0, 0.5, (4, 3, 16, 16))
    expected, computed = (answers(path, images.astype(np.float32)) for path in (model, made))
    for ours, theirs in zip(computed, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ENOUGH < decibels(theirs, ours) < 80  # quantized it is
    interface = [[entry.SerializeToString() for entry in (*each.graph.input, *each.graph.output)]
                 for each in (onnx.load(model), onnx.load(made))]  # fmt: skip
    assert interface[0] == interface[1]
    assert done.report.targets[target].layers == len(codes_of(made)) >= 5


STORED = {2: ("INT2", 25), 3: ("INT4", 21), 4: ("INT4", 21)}  # the container, and the opset that has it
ACCURATE = {2: 60.0, 3: 97.0}  # percent of the held-out digits; 99 with more bits


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("bits", "all_layers"), [*((bits, False) for bits in range(2, 9)), (2, True), (4, True)])
def test_every_number_of_bits(bits: int, all_layers: bool, labelled: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.onnx"
    done = onnxdfq.quantize(DIGITS, target="ort-cpu", recipe="fast", bits=bits, all_layers=all_layers,
                            evaluate=labelled, output=made)  # fmt: skip
    entry, codes = done.report.targets["ort-cpu"], codes_of(made)
    used = [bits_of(each) for each in codes.values()]
    ends = [bits, bits] if all_layers else [8, 8]
    assert used == [ends[0], *[bits] * 16, ends[1]]
    assert entry.accuracy is not None
    assert entry.accuracy > ACCURATE.get(bits, 99.0)
    container, opset = STORED.get(bits, ("INT8", onnx.load(DIGITS).opset_import[0].version))
    types = [onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in done.models["ort-cpu"].graph.initializer]
    assert types.count(container) >= 16
    assert onnx.load(made).opset_import[0].version == opset


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("bits", [2, 4])
def test_packed_weights_change_the_size_and_no_answer(bits: int, tmp_path: Path) -> None:
    model = saved(BRANCHES, SHAPES, tmp_path / "branches.onnx")
    images = np.random.default_rng(5).normal(0, 1, (2, 3, 16, 16)).astype(np.float32)
    packed, plain = tmp_path / "packed.onnx", tmp_path / "plain.onnx"
    for path, compat in ((packed, False), (plain, True)):
        onnxdfq.quantize(model, target="ort-cpu", recipe="fast", bits=bits, compat=compat, output=path)
    assert packed.stat().st_size < plain.stat().st_size
    assert onnx.load(plain).opset_import[0].version == 17
    for ours, theirs in zip(answers(packed, images), answers(plain, images), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(codes_of(packed).values(), codes_of(plain).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.usefixtures("quick")
def test_seven_bits_at_most_where_products_would_overflow(small: Path) -> None:
    onnxdfq.quantize(small, target="ort-cpu-avx2", recipe="fast", output=small.parent / "made.onnx")
    assert {bits_of(codes) for codes in codes_of(small.parent / "made.onnx").values()} == {7}
