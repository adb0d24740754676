"""The form that all passes expect, and that a model computes the same in it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, parser

from passes.base import run_passes
from passes.canonicalize import (
    CANONICAL,
    ConstantsToInitializers,
    NameNodes,
    PrivateInitializers,
    default_opset,
    raise_opset,
)
from tests.passes.conftest import interface, model_of, run

RNG = np.random.default_rng(0)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def rewritten(model, *passes):
    """The model after the passes, and their results."""
    graph = gs.import_onnx(model)
    results = run_passes(graph, passes)
    exported = gs.export_onnx(graph)
    onnx.checker.check_model(exported)
    return exported, results


# -- constants


def test_constants_of_every_numeric_kind_become_initializers():
    text = """g (float[N,4] x) => (float[N,4] a, float[N,4] b, float[N,4] c, float[2,M] d, float[M,1] e) {
        scalar = Constant <value_float = 0.5> ()
        vector = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
        tensor = Constant <value = float[1,4] {4.0, 3.0, 2.0, 1.0}> ()
        two = Constant <value_ints = [2, -1]> ()
        a = Mul (x, scalar)
        b = Add (x, vector)
        c = Sub (x, tensor)
        d = Reshape (x, two)
        one = Constant <value_int = 1> ()
        zero = Constant <value = int64[1] {0}> ()
        turned = Transpose <perm = [1, 0]> (d)
        column = Gather <axis = 1> (turned, one)
        shaped = Unsqueeze (column, zero)
        e = Transpose <perm = [1, 0]> (shaped)
    }"""
    model = model_of(text)
    after, (result,) = rewritten(model, ConstantsToInitializers())
    assert result.changed == 6
    assert not any(node.op_type == "Constant" for node in after.graph.node)
    kinds = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in after.graph.initializer}
    assert kinds["scalar"] == (TensorProto.FLOAT, [])
    assert kinds["vector"] == (TensorProto.FLOAT, [4])
    assert kinds["tensor"] == (TensorProto.FLOAT, [1, 4])
    assert kinds["two"] == (TensorProto.INT64, [2])
    assert kinds["one"] == (TensorProto.INT64, [])
    x = weights(6, 4)
    for ours, theirs in zip(run(after, x), run(model, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert interface(after) == interface(model)


def test_a_constant_that_is_an_output_of_the_model_stays_a_node():
    model = model_of("""g (float[1] x) => (float[1] y, float[1] k) {
        k = Constant <value = float[1] {3.0}> ()
        y = Add (x, k)
    }""")
    after, (result,) = rewritten(model, ConstantsToInitializers())
    assert result.changed == 0
    assert [node.op_type for node in after.graph.node] == ["Constant", "Add"]
    assert [float(each[0]) for each in run(after, np.float32([2]))] == [5, 3]


def test_a_constant_of_text_stays_a_node():
    model = model_of("""g (float[1] x) => (float[1] y, string[1] s) {
        text = Constant <value_strings = ["a"]> ()
        s = Identity (text)
        y = Identity (x)
    }""")
    after, (result,) = rewritten(model, ConstantsToInitializers())
    assert result.changed == 0
    assert [node.op_type for node in after.graph.node].count("Constant") == 1


# -- names


def test_every_node_gets_a_name_of_its_own_and_keeps_the_one_it_had():
    model = model_of("g (float[4] x) => (float[4] y) { a = Relu (x) b = Abs (a) c = Neg (b) d = Exp (c) y = Relu (d) }")
    for node, name in zip(model.graph.node, ["twice", "", "twice", "Abs_b", "alone"], strict=True):
        node.name = name
    after, (result,) = rewritten(model, NameNodes())
    names = [node.name for node in after.graph.node]
    assert names == ["twice", "Abs_b", "twice_1", "Abs_b_1", "alone"]
    assert result.changed == 3
    assert rewritten(after, NameNodes())[1][0].changed == 0


# -- shared parameters


def test_each_user_of_a_shared_parameter_gets_its_own():
    shared = weights(8, 8, 1, 1)
    model = model_of(
        """g (float[N,8,2,2] x) => (float[N,8,2,2] y) {
            a = Conv (x, w, b) c = Conv (a, w, b) d = Conv (c, w) y = Mul (d, w_1)
        }""",
        w=shared, b=weights(8), w_1=weights(1),
    )  # fmt: skip
    x = weights(2, 8, 2, 2)
    graph = gs.import_onnx(model)
    result = PrivateInitializers()(graph)
    assert result.changed == 3
    parameters = [node.inputs[1] for node in graph.nodes if node.op == "Conv"]
    assert len({id(each) for each in parameters}) == len({each.name for each in parameters}) == 3
    assert parameters[0].name == "w"
    assert "w_1" not in {each.name for each in parameters}  # that name was taken
    np.testing.assert_array_equal(run(gs.export_onnx(graph), x)[0], run(model, x)[0])
    parameters[0].values[:] = 0  # what one changes the others keep
    assert np.array_equal(parameters[1].values, shared)
    assert np.array_equal(parameters[2].values, shared)


def test_a_matmul_and_a_normalization_share_nothing_afterwards():
    model = model_of(
        """g (float[N,4] x) => (float[N,4] y) {
            a = MatMul (x, w) b = MatMul (a, w) c = Add (v, b) y = BatchNormalization (c, v, v, v, v)
        }""",
        w=weights(4, 4), v=np.float32([1, 2, 3, 4]),
    )  # fmt: skip
    after, (result,) = rewritten(model, PrivateInitializers())
    assert result.changed == 5
    reads = [name for node in after.graph.node for name in node.input if name.startswith(("w", "v"))]
    assert len(reads) == len(set(reads)) == 7
    x = weights(3, 4)
    np.testing.assert_array_equal(run(after, x)[0], run(model, x)[0])


def test_numbers_that_are_structure_stay_shared():
    model = model_of(
        "g (float[4] x) => (float[2,2] y) { a = Reshape (x, s) b = Relu (a) y = Reshape (b, s) }", s=np.array([2, 2])
    )
    after, (result,) = rewritten(model, PrivateInitializers())
    assert result.changed == 0
    assert len(after.graph.initializer) == 1


def test_initializers_listed_as_inputs_are_plain_initializers_afterwards():
    model = model_of(
        "g (float[N,3] x, float[3,2] w) => (float[N,2] y) { y = MatMul (x, w) }", opset=9, ir=3, w=weights(3, 2)
    )
    x = weights(2, 3)
    expected = run(model, x)[0]
    after, _ = rewritten(raise_opset(model), *CANONICAL)
    assert [entry.name for entry in after.graph.input] == ["x"]
    np.testing.assert_array_equal(run(after, x)[0], expected)


def test_the_canonical_form_of_a_canonical_graph_is_itself():
    model = model_of("g (float[4] x) => (float[4] y) { k = Constant <value_float = 2.0> () y = Mul (x, k) }")
    once, _ = rewritten(model, *CANONICAL)
    twice, results = rewritten(once, *CANONICAL)
    assert [result.changed for result in results] == [0] * len(CANONICAL)
    assert twice == once


# -- opsets


@pytest.mark.parametrize("opset", range(7, 13))
def test_old_models_are_raised_to_13_and_compute_the_same(opset):
    model = model_of(
        """g (float[N,4,6,6] x) => (float[N,3] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b) n = BatchNormalization (a, g, b, m, v) r = Relu (n)
            p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
            s = ReduceSum <axes = [2, 3], keepdims = 1> (p) q = Squeeze <axes = [2, 3]> (s)
            u = Dropout (q) z = Gemm <transB = 1> (u, k, c) y = Softmax <axis = 1> (z)
        }""",
        opset=opset, w=weights(5, 4, 3, 3), b=weights(5), g=weights(5), m=weights(5), v=np.abs(weights(5)) + 0.5,
        k=weights(3, 5), c=weights(3),
    )  # fmt: skip
    helper.set_model_props(model, {"author": "somebody"})
    model.producer_name = "exporter"
    x = weights(2, 4, 6, 6)
    expected = run(model, x)[0]
    raised = raise_opset(model)
    onnx.checker.check_model(raised, full_check=True)
    assert default_opset(raised) == 13
    assert interface(raised) == interface(model)
    assert {entry.key: entry.value for entry in raised.metadata_props} == {"author": "somebody"}
    np.testing.assert_allclose(run(raised, x)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [13, 17, 21, 25])
def test_newer_models_keep_their_opset_and_get_an_ir_version_that_fits(opset):
    model = parser.parse_model(f'<ir_version: 3, opset_import: ["" : {opset}]> g (float[1] x) => (float[1] y) '
                               "{ y = Relu (x) }")  # fmt: skip
    raised = raise_opset(model)
    assert default_opset(raised) == opset
    assert raised.ir_version >= helper.find_min_ir_version_for([helper.make_opsetid("", opset)])


@pytest.mark.parametrize("opset", [1, 6, 26, 99])
def test_an_opset_out_of_reach_is_refused(opset):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1] x) => (float[1] y) '
                               "{ y = Relu (x) }")  # fmt: skip
    with pytest.raises(ValueError, match=rf"^opset {opset} is outside 7\.\.25$"):
        raise_opset(model)


def test_what_the_converter_cannot_raise_is_refused_in_one_line():
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 9]> g (float[2,3] x) => (float[4,6] y) '
                               "{ y = Upsample <mode = \"nearest\"> (x, s) }")  # fmt: skip
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ValueError, match=r"^opset 9 can't be raised to 13: ") as caught:
        raise_opset(model)
    assert "\n" not in str(caught.value)


def test_domains_that_onnx_does_not_know_are_no_obstacle():
    model = onnx.parser.parse_model(
        '<ir_version: 7, opset_import: ["" : 18, "com.microsoft" : 1]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    )
    assert raise_opset(model).ir_version == 8


def test_a_model_without_an_opset_counts_as_1():
    assert default_opset(onnx.ModelProto()) == 1
    assert default_opset(onnx.ModelProto(opset_import=[helper.make_opsetid("other", 3)])) == 1
    assert default_opset(onnx.ModelProto(opset_import=[helper.make_opsetid("ai.onnx", 12)])) == 12
