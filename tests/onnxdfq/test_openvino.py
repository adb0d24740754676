"""OpenVINO reads what is made for it, runs it in integers, and computes what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench_openvino import PLUMBING, agreement, executed, loaded, share
from onnx import TensorProto

import onnxdfq
from passes.targets import TARGETS
from tests.passes.conftest import decibels
from tests.passes.patterns import HELD_OUT, PATTERNS, feeds_of, made, outputs

pytest.importorskip("openvino")

MODEL = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"
IMAGE = np.random.default_rng(0).uniform(0, 1, (1, 1, 32, 32)).astype(np.float32)
CONVOLUTIONS, PRODUCTS = ("Convolution", "Deconvolution"), ("FullyConnected", "MatMul")
# What else is left in float between integers, of all patterns: these have no integer kernels there.
IN_FLOAT = {
    "concat-far-apart": {"Concatenation"}, "resize-linear": {"Interpolate"}, "softmax": {"Softmax"},
    "layer-norm": {"MVN"}, "conv-hard-swish-in-parts": {"Math"}, "squeeze-excite-hard": {"Math"},
    "matmul-of-weights": {"MatMul"},
}  # fmt: skip


def quantized(path, **options):
    return onnxdfq.quantize(path, target="openvino", recipe="fast", **options).models["openvino"]


@pytest.mark.usefixtures("quick")
def test_a_network_runs_in_integers_and_agrees_with_onnx_runtime():
    model = quantized(MODEL)
    network = loaded(model)
    found = executed(network)
    layers = sum(node.op_type in ("Conv", "Gemm") for node in model.graph.node)
    assert share(found, *CONVOLUTIONS, *PRODUCTS) == f"{layers} of {layers}"
    assert {name.split()[0] for name in found if name.endswith("f32")} <= {"Subgraph", "FakeQuantize"}  # of the input
    assert agreement(network, model, IMAGE) > 40


@pytest.mark.usefixtures("quick")
def test_weights_of_four_bits_are_unpacked_when_it_is_loaded(small):
    model, plain = quantized(small, bits=4), quantized(small, bits=4, compat=True)
    assert sum(each.data_type == TensorProto.INT4 for each in model.graph.initializer) == 2  # those in the middle
    packed, unpacked = loaded(model), loaded(plain)
    assert executed(packed) == executed(unpacked)
    image = np.random.default_rng(0).uniform(0, 1, (2, 3, 16, 16)).astype(np.float32)
    np.testing.assert_array_equal(packed([image])[0], unpacked([image])[0])


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_run_in_integers_and_agree_with_onnx_runtime(name):
    quantized, feeds = made(name, "openvino").quantized, feeds_of(name, HELD_OUT)
    network = loaded(quantized)
    found = executed(network)
    layers = [kind for kind in found if kind.split()[0] in (*CONVOLUTIONS, *PRODUCTS)]
    floats = {kind.split()[0] for kind in found if kind.endswith("f32")} - PLUMBING - {"Subgraph", "FakeQuantize"}
    assert floats == IN_FLOAT.get(name, set())
    if name not in ("gemm", "matmul", "matmul-of-rows", "matmul-of-weights"):  # so small that they become one Subgraph
        assert all(kind.endswith("8") for kind in layers)
        assert sum(found[kind] for kind in layers) >= len(made(name, "openvino").placed.weights)
    computed = network(feeds)
    for tensor, expected in outputs(quantized, feeds).items():
        assert decibels(expected, computed[tensor]) > 35  # where one scale is rounded to another, some codes differ


@pytest.mark.parametrize("name", ["conv-silu", "residual-add-relu", "max-pool", "squeeze-excite"])
def test_nothing_but_layers_and_what_carries_integers_is_left_of_common_blocks(name):
    found = executed(loaded(made(name, "openvino").quantized))
    assert found["Subgraph f32"] == 1  # the quantizer of the input
    assert {kind.split()[0] for kind in found} <= {"Convolution", "Pooling", "Reduce", "Eltwise", "Subgraph"}


def test_two_bits_are_not_packed():
    assert {bits for bits, _ in TARGETS["openvino"].packed_from} == {4}  # its reader refuses 2-bit integers (2026.4)
