"""The tables of the targets are sound, what is made for each has its form, and runtimes really fuse what is claimed."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError
from typing import get_args

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from onnx import numpy_helper

from passes.base import run_passes
from passes.canonicalize import MIN_OPSET
from passes.freeze_weights import FreezeBiases, FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.placement import WEIGHTED, place
from passes.plan import INTEGER_LIMITS, decide
from passes.targets import OPENVINO, ORT_ARM, ORT_CPU, ORT_CPU_AVX2, ORT_CUDA, QNN, TARGETS, TENSORRT, Kind
from tests.passes.conftest import canonical, decibels, model_of, run

RNG = np.random.default_rng(8)
EVERY = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


# -- the tables


def test_targets_are_found_under_their_names():
    assert list(TARGETS.values()) == [TENSORRT, ORT_CPU, ORT_CPU_AVX2, ORT_ARM, ORT_CUDA, OPENVINO, QNN]
    assert list(TARGETS) == [target.name for target in TARGETS.values()]


@EVERY
def test_every_rule_is_about_an_operator_that_onnx_knows(target):
    named = [target.absorbs, target.output_required, target.per_tensor_weights, target.int32_bias_written]
    for op in [*target.rules, *frozenset().union(*named), *target.reader.kernels, *target.reader.climbs]:
        assert onnx.defs.has(op), op


@EVERY
def test_every_rule_has_a_kind_and_no_exception_is_about_an_operator_without_a_rule(target):
    assert set(target.rules.values()) <= set(get_args(Kind))
    weighted = {op for op, kind in target.rules.items() if kind == "weighted"}
    assert weighted <= set(WEIGHTED)  # the placement knows where the weights of these are
    assert target.per_tensor_weights <= weighted
    assert target.int32_bias_written | {op for op, _, _ in target.only_with} <= set(target.rules)
    assert target.output_required <= {op for op, kind in target.rules.items() if kind in ("weighted", "elementwise")}
    assert not target.absorbs & set(target.rules)
    assert not target.reader.kernels & set(target.rules)


@EVERY
def test_types_bits_and_opsets_are_possible(target):
    low, _ = INTEGER_LIMITS[target.activation]
    assert low < 0 or not target.symmetric
    assert {target.activation, "int8"} <= target.reader.code_types  # it can read what is written for it
    assert 2 <= target.weight_bits <= 8
    wide = target.activation.replace("8", "16")
    assert target.activation_bits in ((8,), (8, 16))
    assert 16 not in target.activation_bits or (wide in target.reader.code_types and target.opsets[1] >= 21)
    oldest, newest = target.opsets
    assert MIN_OPSET <= oldest < newest <= onnx.defs.onnx_opset_version()
    assert all(bits < 8 and oldest <= opset <= newest for bits, opset in target.packed_from)
    assert target.float_types[0] == "float32"
    assert set(target.float_types) <= {"float32", "float16"}
    assert not (target.everything and target.weights_only)
    assert target.runtime


def test_a_target_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ORT_CPU.symmetric = True
    with pytest.raises(TypeError):
        ORT_CPU.rules["Softmax"] = "unary"
    with pytest.raises(TypeError):
        TARGETS["other"] = ORT_CPU


# -- the form of what is made for a target


class Quantized:
    """A model as it is written for a target, and how its nodes read and write."""

    def __init__(self, model, target, low=-4.0, high=4.0):
        graph = canonical(model)
        placed = place(graph, target)
        run_passes(graph, [InsertQDQ(decide(graph, dict.fromkeys(placed.tensors, (low, high)), target))])
        run_passes(graph, [FreezeBiases(target.int32_bias_written), FreezeWeights()])
        self.model = gs.export_onnx(graph)
        onnx.checker.check_model(self.model, full_check=True)
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.values = {each.name: numpy_helper.to_array(each) for each in self.model.graph.initializer}
        self.writer = {name: node for node in self.model.graph.node for name in node.output}

    def codes(self, name):
        """The values of a constant behind a DequantizeLinear."""
        return self.values[self.writer[self.nodes[name].input[1]].input[0]]

    def scales(self, name):
        """Of the weights of a layer."""
        return self.values[self.writer[self.nodes[name].input[1]].input[1]]

    def reads(self, name):
        """The type of each input of a node, before it is dequantized."""
        return " ".join(self._type(each) for each in self.nodes[name].input)

    def _type(self, name):
        writer = self.writer.get(name)
        if writer is None or writer.op_type != "DequantizeLinear":
            return str(self.values[name].dtype) if name in self.values else "float32"
        return str(self.values[writer.input[2]].dtype)

    def written_for(self, name):
        """Operators that read what a node writes."""
        (written,) = self.nodes[name].output
        return " ".join(node.op_type for node in self.model.graph.node if written in node.input)


NETWORK = """g (float[1,16,8,8] x) => (float[1,10] y) {
    a = Conv (x, u, ub) r = Relu (a) b = Conv (r, w) s = Add (b, r) t = Relu (s) d = ConvTranspose (t, k)
    e = Sigmoid (d) m = Mul (d, e) p = GlobalAveragePool (m) f = Flatten (p) y = Gemm <transB = 1> (f, v, vb)
}"""
LAYERS = ("Conv_a", "Conv_b", "ConvTranspose_d", "Gemm_y")


@pytest.fixture(scope="module")
def network():
    w = {"u": weights(16, 16, 1, 1), "w": weights(16, 16, 1, 1), "k": weights(16, 16, 1, 1), "v": weights(10, 16)}
    return model_of(NETWORK, **w, ub=weights(16), vb=weights(10))


# Of each node: what its inputs are stored in, and who reads what it writes.
FORMS = {
    "tensorrt": {
        "Conv_a": ("int8 int8 float32", "Relu"), "Conv_b": ("int8 int8", "Add"), "Add_s": ("float32 int8", "Relu"),
        "ConvTranspose_d": ("int8 int8", "Sigmoid Mul"), "Mul_m": ("float32 float32", "GlobalAveragePool"),
        "GlobalAveragePool_p": ("float32", "Flatten"), "Gemm_y": ("int8 int8 float32", ""),
    },
    "ort-cpu": {
        "Conv_a": ("uint8 int8 float32", "Relu"), "Relu_r": ("float32", "QuantizeLinear"),
        "Conv_b": ("uint8 int8", "QuantizeLinear"), "Add_s": ("uint8 uint8", "Relu"),
        "ConvTranspose_d": ("uint8 float32", "Sigmoid Mul"), "Gemm_y": ("uint8 int8 int32", ""),
    },
    "ort-cuda": {
        "Conv_a": ("float32 int8 float32", "Relu"), "Conv_b": ("float32 int8", "Add"),
        "Add_s": ("float32 float32", "Relu"), "ConvTranspose_d": ("float32 int8", "Sigmoid Mul"),
        "Gemm_y": ("float32 int8 float32", ""),
    },
    "openvino": {
        "Conv_a": ("uint8 int8 float32", "Relu"), "Conv_b": ("uint8 int8", "Add"), "Add_s": ("float32 uint8", "Relu"),
        "ConvTranspose_d": ("uint8 int8", "Sigmoid Mul"), "Mul_m": ("float32 float32", "QuantizeLinear"),
        "GlobalAveragePool_p": ("uint8", "QuantizeLinear"), "Gemm_y": ("uint8 int8 float32", ""),
    },
    "qnn": {
        "Conv_a": ("uint8 int8 int32", "Relu"), "Conv_b": ("uint8 int8", "QuantizeLinear"),
        "Add_s": ("uint8 uint8", "Relu"), "ConvTranspose_d": ("uint8 int8", "QuantizeLinear"),
        "Sigmoid_e": ("uint8", "QuantizeLinear"), "Mul_m": ("uint8 uint8", "QuantizeLinear"),
        "GlobalAveragePool_p": ("uint8", "QuantizeLinear"), "Flatten_f": ("uint8", "QuantizeLinear"),
        "Gemm_y": ("uint8 int8 int32", "QuantizeLinear"),
    },
}  # fmt: skip
FORMS["ort-cpu-avx2"] = FORMS["ort-cpu"]
FORMS["ort-arm"] = {node: (reads.replace("uint8", "int8"), then) for node, (reads, then) in FORMS["ort-cpu"].items()}


@EVERY
def test_a_network_has_the_form_that_the_target_wants(target, network):
    made = Quantized(network, target)
    assert {node: (made.reads(node), made.written_for(node)) for node in FORMS[target.name]} == FORMS[target.name]


@EVERY
def test_zero_points_scales_and_codes_are_what_the_target_takes(target, network):
    made = Quantized(network, target)
    low, high = {8: (-127, 127), 7: (-64, 63)}[target.weight_bits]
    for name in LAYERS:
        if made.reads(name).split()[1] == "float32":
            continue
        codes = made.codes(name)
        assert low <= codes.min()
        assert codes.max() <= high
        assert codes.min() == low or codes.max() == high
        assert made.scales(name).shape == (() if name.split("_")[0] in target.per_tensor_weights else (len(codes),))
    for node in made.model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = made.values[node.input[2]]
            assert zero.dtype == target.activation
            assert int(zero) == (0 if target.symmetric else INTEGER_LIMITS[target.activation][0] + 128)


def test_biases_in_int32_have_the_scale_of_the_product(network):
    made = Quantized(network, QNN)
    layer = made.nodes["Conv_a"]
    bias, activation, weight = (made.writer[layer.input[k]].input for k in (2, 0, 1))
    expected = made.values[activation[1]] * made.values[weight[1]]
    np.testing.assert_allclose(made.values[bias[1]], expected, rtol=1e-6)


def test_on_qnn_every_tensor_between_two_operators_of_the_table_is_in_integers(network):
    made = Quantized(network, QNN)
    for name, node in made.nodes.items():
        if node.op_type in QNN.rules:
            assert "float32" not in made.reads(name)
            assert made.written_for(name) in ("QuantizeLinear", "Relu")  # a Relu goes into the layer before it


def test_ort_arm_differs_from_ort_cpu_by_the_offset_of_its_codes(network):
    x86, arm = Quantized(network, ORT_CPU, -1.0, 3.0), Quantized(network, ORT_ARM, -1.0, 3.0)
    assert [node.name for node in x86.model.graph.node] == [node.name for node in arm.model.graph.node]
    for name, node in x86.nodes.items():
        if node.op_type == "QuantizeLinear":
            there = arm.nodes[name]
            assert x86.values[node.input[1]] == arm.values[there.input[1]]
            assert int(x86.values[node.input[2]]) - int(arm.values[there.input[2]]) == 128


def test_weights_alone_leave_no_quantizer_and_lose_half_a_step_at_most(network):
    made = Quantized(network, ORT_CUDA)
    assert "QuantizeLinear" not in {node.op_type for node in made.model.graph.node}
    x = weights(1, 16, 8, 8)
    assert 30 < decibels(run(network, x)[0], run(made.model, x)[0]) < 80


# -- what runtimes make of it


def optimized(text, target, path, **initializers):
    """How often each operator is in what ONNX Runtime makes of the quantized model."""
    made = Quantized(model_of(f"g {text}", **initializers), target)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path / "optimized.onnx")
    options.log_severity_level = 3
    if target.activation == "int8":  # let x86 fuse what ARM fuses: slow here, but the same kernels
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    onnxruntime.InferenceSession(made.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path / "optimized.onnx").graph.node)


KERNELS = {  # operator -> how it stands between two convolutions, and the integer kernel it should become
    "Add": ("b = Conv (x, v) c = Add (a, b)", "QLinearAdd"),
    "Mul": ("b = Conv (x, v) c = Mul (a, b)", "QLinearMul"),
    "Concat": ("b = Conv (x, v) c = Concat <axis = 2> (a, b)", "QLinearConcat"),
    "GlobalAveragePool": ("c = GlobalAveragePool (a)", "QLinearGlobalAveragePool"),
    "AveragePool": ("c = AveragePool <kernel_shape = [2,2]> (a)", "QLinearAveragePool"),
    "Sigmoid": ("c = Sigmoid (a)", "QLinearSigmoid"),
    "LeakyRelu": ("c = LeakyRelu <alpha = 0.1> (a)", "QLinearLeakyRelu"),
    "MaxPool": ("c = MaxPool <kernel_shape = [2,2]> (a)", "MaxPool"),
    "Reshape": ("c = Reshape (a, shape)", "Reshape"),
    "Flatten": ("b = Flatten (a) c = Reshape (b, shape)", "Flatten"),
    "Transpose": ("c = Transpose <perm = [0,1,3,2]> (a)", "Transpose"),
    "Squeeze": ("b = Unsqueeze (a, last) c = Squeeze (b, last)", "Squeeze"),
    "Unsqueeze": ("b = Unsqueeze (a, last) c = Squeeze (b, last)", "Unsqueeze"),
    "Slice": ("c = Slice (a, one, three, last)", "Slice"),
    "Gather": ("c = Gather <axis = 3> (a, one)", "Gather"),
    "Split": ("b, d = Split <axis = 1> (a, halves) c = Concat <axis = 1> (d, b)", "Split"),
    "Resize": ('c = Resize <mode = "nearest"> (a, , twice)', "Resize"),
    "DepthToSpace": ("b = DepthToSpace <blocksize = 2> (a) c = Concat <axis = 1> (b, b, b, b)", "DepthToSpace"),
}
ON_CPU = pytest.mark.parametrize("target", [ORT_CPU, ORT_CPU_AVX2, ORT_ARM], ids=lambda target: target.name)


@ON_CPU
def test_every_operator_of_the_table_is_tried_below(target):
    assert {*KERNELS, "Conv", "Gemm", "MatMul"} == set(target.rules)


@ON_CPU
@pytest.mark.parametrize("op", KERNELS)
def test_onnx_runtime_runs_it_in_integers(op, target, tmp_path):
    between, kernel = KERNELS[op]
    found = optimized(
        f"(float[1,16,6,6] x) => (float[A,B,C,D] y) {{ a = Conv (x, u) {between} y = Conv (c, w) }}",
        target, tmp_path, u=weights(16, 16, 1, 1), v=weights(16, 16, 1, 1), w=weights(16, 16, 1, 1),
        shape=np.array([1, 16, 6, 6]), last=np.array([3]), one=np.array([1]), three=np.array([3]),
        halves=np.array([8, 8]), twice=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    assert found[kernel] >= 1
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)  # at the two ends, nowhere in between
    in_float = {"Conv", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "Add", "Mul", "Concat"}
    assert not in_float & set(found)


@ON_CPU
def test_matrix_products_run_in_integers(target, tmp_path):
    found = optimized(
        "(float[4,16] x) => (float[4,16] y, float[4,16] z) { a = Gemm (x, u, b) y = Gemm (a, v) z = MatMul (a, v) }",
        target, tmp_path, u=weights(16, 16), v=weights(16, 16), b=weights(16),
    )  # fmt: skip
    assert found["QGemm"] == 2
    assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] == 1
    assert not {"Gemm", "MatMul"} & set(found)


def test_openvino_runs_layers_in_integers():
    openvino = pytest.importorskip("openvino")
    text = """g (float[1,16,8,8] x) => (float[1,10] y) {
        a = Conv (x, u, ub) r = Relu (a) d = ConvTranspose (r, k) e = Relu (d) b = Conv (e, w) t = Relu (b)
        s = Add (t, r) c = Conv (s, h) p = GlobalAveragePool (c) f = Flatten (p) y = Gemm <transB = 1> (f, v, vb)
    }"""
    constants = {name: weights(16, 16, 1, 1) / 4 for name in "ukwh"}
    model = model_of(text, **constants, v=weights(10, 16), ub=weights(16), vb=weights(10))
    made = Quantized(model, OPENVINO, 0.0, 8.0)  # ConvTranspose in integers needs a zero-point of 0 before it
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(made.model.SerializeToString()), "CPU")
    facts = [each.get_rt_info() for each in compiled.get_runtime_model().get_ordered_ops()]
    types = [(each["layerType"].value, each["runtimePrecision"].value) for each in facts]
    layers = [entry for entry in types if entry[0] in ("Convolution", "Deconvolution", "FullyConnected", "MatMul")]
    assert sorted(op for op, _ in layers) == ["Convolution"] * 3 + ["Deconvolution", "FullyConnected"]
    assert {precision for _, precision in layers} <= {"u8", "i8"}
    x = RNG.uniform(0, 4, (1, 16, 8, 8)).astype(np.float32)
    assert decibels(run(made.model, x)[0], compiled([x])[0]) > 60
