"""What is an image input, of which size, and what is none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.model_input import SIZES, ModelInput, model_input


def model_of(inputs):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[A] y) {{ y = F (x) }}')


def found(inputs, runs=lambda candidate: True, shape=None):
    return model_input(model_of(inputs), runs, shape)


def refused(inputs, runs=lambda candidate: True, shape=None):
    model = model_of(inputs) if isinstance(inputs, str) else inputs
    with pytest.raises(OnnxdfqError) as caught:
        model_input(model, runs, shape)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def only(height, width):
    """A model that runs with one size."""
    return lambda candidate: (candidate.height, candidate.width) == (height, width)


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ("1,3,224,224", (3, 224, 224, "NCHW", 1)),
        ("N,3,224,192", (3, 224, 192, "NCHW", None)),
        ("N,1,28,28", (1, 28, 28, "NCHW", None)),
        ("8,4,64,32", (4, 64, 32, "NCHW", 8)),
        ("N,224,192,3", (3, 224, 192, "NHWC", None)),
        ("2,28,28,1", (1, 28, 28, "NHWC", 2)),
        ("N,3,5,3", (3, 5, 3, "NCHW", None)),  # both ends could be channels: the first is
        ("N,7,9,9", (7, 9, 9, "NCHW", None)),
    ],
)
def test_static_sizes_are_read_without_running_anything(dims, expected):
    asked = []
    result = found(f"float[{dims}] x", lambda candidate: asked.append(candidate) or True)
    assert (result.channels, result.height, result.width, result.layout, result.batch) == expected
    assert (result.name, result.dtype) == ("x", np.dtype(np.float32))
    assert len(asked) <= 1
    names = {"NCHW": [expected[0], expected[1], expected[2]], "NHWC": [expected[1], expected[2], expected[0]]}
    assert result.shape(5) == (5, *names[expected[3]])


def test_uint8_is_kept():
    assert found("uint8[N,224,224,3] x").dtype == np.dtype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_free_sizes_are_found_by_trying(size):
    for dims in ("N,3,H,W", "N,H,W,3"):
        result = found(f"float[{dims}] x", only(size, size))
        assert (result.height, result.width, result.channels) == (size, size, 3)


def test_the_first_size_that_runs_is_taken_and_no_more_are_tried():
    asked = []
    result = found("float[N,3,H,W] x", lambda candidate: asked.append(candidate.height) or True)
    assert asked == [224] == [result.height]


@pytest.mark.parametrize(("dims", "size"), [("N,3,480,W", (480, 640)), ("N,3,H,100", (320, 100))])
def test_one_free_side_keeps_the_other(dims, size):
    result = found(f"float[{dims}] x", only(*size))
    assert (result.height, result.width) == size


def test_free_channels_are_three():
    assert found("float[N,C,H,W] x").channels == 3
    assert found("float[N,C,H,W] x").layout == "NCHW"


def test_no_size_that_runs_is_refused_with_a_way_out():
    assert "--input-shape" in refused("float[N,3,H,W] x", lambda candidate: False)


def test_a_given_shape_fills_what_is_free():
    asked = []
    result = found("float[N,3,H,W] x", lambda candidate: asked.append(candidate) or True, (1, 3, 100, 60))
    assert (result.height, result.width, result.batch) == (100, 60, None)
    assert {candidate.height for candidate in asked} <= {100}
    assert found("float[N,H,W,C] x", shape=(1, 50, 60, 3)).layout == "NHWC"
    assert found("float[4,3,H,W] x", shape=(1, 3, 8, 8)).batch == 4


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 32, 32), (3, 32, 32), (1, 3, 32, 32, 1), (1, 32, 32, 3)])
def test_a_given_shape_that_contradicts_the_model_is_refused(shape):
    assert "--input-shape does not fit input x" in refused("float[N,3,32,32] x", shape=shape)


@pytest.mark.parametrize(("dims", "axes"), [("N,10", 2), ("N,3,32", 3), ("N,3,4,32,32", 5), ("7", 1)])
def test_an_input_of_another_rank_is_no_image(dims, axes):
    assert f"input x has {axes} axes" in refused(f"float[{dims}] x")


@pytest.mark.parametrize("kind", ["int64", "float16", "double", "bool", "string", "int8"])
def test_an_input_of_another_type_is_no_image(kind):
    assert "neither float32 nor uint8" in refused(f"{kind}[N,3,8,8] x")


def test_a_sequence_is_no_image_and_neither_is_an_input_of_unknown_rank():
    model = model_of("float[N,3,8,8] x")
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", onnx.TensorProto.FLOAT, None))
    assert "neither float32 nor uint8" in refused(model)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None))
    assert "input x has 0 axes" in refused(model)


@pytest.mark.parametrize(
    "inputs",
    [
        "",
        "int64[N,77] ids, int64[N,77] mask",
        "float[N,80,100] sound, float[N] gain",
        "float[N,12,9,64] keys, int64[N] z",
    ],
)
def test_one_of_several_inputs_has_to_be_an_image(inputs):
    message = refused(inputs)
    assert f"the model has {inputs.count('[')} inputs" in message
    assert "none of them an image" in message


@pytest.mark.parametrize(
    ("inputs", "others"),
    [
        ("float[N,3,8,8] x, float[N,3,8,8] z", ["z"]),
        ("int64[N] z, float[N,3,8,8] x, float[N,2] info", ["z", "info"]),
        ("float[N,12,8,8] z, float[N,8,8,3] x", ["z"]),
        ("float[N,5] z, uint8[N,4,8,8] x", ["z"]),
        ("float[N,1,8,8] z, float[N,3,8,8] x", ["z"]),
        ("float[N,1,8,8] mask, float[N,1,8,8] x, float[N,1,8,8] z", ["mask", "z"]),
        ("float16[N,3,8,8] z, float[N,3,8,8] x", ["z"]),
    ],
)
def test_the_first_image_in_colour_leads(inputs, others):
    result = found(inputs)
    assert result.name == "x"
    assert [other.name for other in result.others] == others


def test_of_ways_to_feed_another_input_the_first_that_runs_is_taken():
    roles = []

    def runs(candidate):
        roles.append(tuple(other.role for other in candidate.others))
        return roles[-1] == ("ones", "noise")

    result = found("float[N,3,8,8] x, int64[N] a, float[N,5] b", runs)
    assert tuple(other.role for other in result.others) == ("ones", "noise")
    assert roles[0] == ("small", "noise")
    assert len(roles) == len(set(roles))


def test_sizes_and_ways_to_feed_are_tried_together():
    result = found(
        "float[N,3,H,W] x, int64[N] a, float[N,1,H,W] mask",
        lambda candidate: candidate.height == 32 and candidate.others[0].role == "zeros",
    )
    assert result.shapes(2) == {"x": (2, 3, 32, 32), "a": (2,), "mask": (2, 1, 32, 32)}


def test_nothing_that_runs_for_another_input_is_refused_with_a_way_out():
    message = refused("float[N,3,8,8] x, int64[N] ids", lambda candidate: False)
    assert "beside x (ids)" in message
    assert "--images" in message


def test_weights_that_old_files_list_as_inputs_are_none():
    model = model_of("float[N,3,8,8] x, float[4] w")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "w"))
    assert model_input(model, lambda candidate: True).name == "x"


def test_a_candidate_describes_what_would_be_fed():
    asked = []
    found("float[2,H,W,1] x", lambda candidate: asked.append(candidate) or candidate.height == 32)
    assert asked[0] == ModelInput("x", 1, 224, 224, "NHWC", 2, np.dtype(np.float32))
    assert [candidate.shape(2) for candidate in asked] == [(2, 224, 224, 1), (2, 32, 32, 1)]
