"""What is fed to inputs beside the image: what they are taken for, which numbers they get, how torch gets the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.domain import preset
from onnxdfq.images.guides import guides
from onnxdfq.images.model_input import model_input
from onnxdfq.images.other_inputs import check_rows
from onnxdfq.images.source import Subject
from onnxdfq.images.teacher import Inputs, Teacher

SIDES = "24,32"
RNG = np.random.default_rng(0)


def model_of(inputs, image=f"float[N,3,{SIDES}] x"):
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({image}, {inputs}) => (float[A] y) {{ y = F (x) }}'
    )


def into(inputs, image=f"float[N,3,{SIDES}] x", given=None):
    return model_input(model_of(inputs, image), lambda candidate: True, given=given)


def only(inputs, image=f"float[N,3,{SIDES}] x", given=None):
    (other,) = into(inputs, image, given).others
    return other


def images(count, *shape):
    return RNG.normal(size=(count, *(shape or (3, 24, 32)))).astype(np.float32)


@pytest.mark.parametrize(
    ("declared", "role"),
    [
        (f"float[N,3,{SIDES}] z", "image"),
        ("float[N,3,H,W] z", "image"),
        ("float[N,3,48,64] template", "image"),
        ("float[1,3,24,32] z", "image"),
        ("float[N,3,8,8] z", "noise"),  # too small to be one
        ("float[N,6,24,32] z", "noise"),
        (f"float[N,1,{SIDES}] mask", "field"),
        (f"float[N,{SIDES}] depth", "field"),
        ("float[N,1,64,64] z", "field"),
        ("float[N,77,768] text", "noise"),
        ("float[N,128] embedding", "noise"),
        ("float[N,77] attention_mask", "ones"),
        ("int64[N,24,32] pixel_mask", "ones"),
        ("bool[N,24,32] valid", "ones"),
        ("float[N,2] im_shape", "size"),
        ("float[N,3] im_info", "size"),
        ("int64[N,2] orig_target_sizes", "size"),
        ("int32[2] image_size", "size"),
        ("int64 batch_size", "small"),
        ("float[N,2] scale_factor", "ones"),
        ("int64 steps", "small"),
        ("int64[N,77] tokens", "small"),
    ],
)
def test_roles(declared, role):
    assert only(declared).role == role


def test_a_second_grey_image_is_no_mask_unless_it_is_called_one():
    grey = "float[N,1,24,32] x"
    assert only("float[N,1,24,32] other", grey).role == "image"
    assert only("float[N,1,24,32] mask", grey).role == "field"
    last = "float[N,24,32,3] x"
    assert only("float[N,24,32,3] other", last).role == "image"
    assert only("float[N,24,32,1] other", last).role == "field"


@pytest.mark.parametrize(
    ("declared", "image", "shape"),
    [
        ("float[N,7] z", "float[N,3,24,32] x", (5, 7)),
        ("float[B,7] z", "float[N,3,24,32] x", (5, 7)),
        ("float[4,7] z", "float[4,3,24,32] x", (5, 7)),
        ("float[4,7] z", "float[N,3,24,32] x", (4, 7)),
        ("float[1,7] z", "float[1,3,24,32] x", (5, 7)),
        ("int64 z", "float[N,3,24,32] x", ()),
        ("float[N,W,H] z", "float[N,3,H,W] x", (5, 224, 224)),
        ("float[N,tokens] z", "float[N,3,24,32] x", (5, 1)),
        ("float[N,1,P,Q] z", "float[N,3,24,32] x", (5, 1, 24, 32)),
    ],
)
def test_free_axes(declared, image, shape):
    found = into(declared, image)
    values = [feeds["z"] for feeds in found.feeds([np.zeros(found.shape(5), np.float32)])]
    assert [each.shape for each in values] == [shape]
    assert found.shapes(5)["z"] == shape
    assert values[0].dtype == found.others[0].dtype


def test_another_image_is_the_next_one_across_batches_too():
    pixels = images(5)
    found = into(f"float[N,3,{SIDES}] z, float[N,3,48,64] large, float[1,3,24,32] one")
    feeds = found.feeds([pixels[:2], pixels[2:4], pixels[4:]])
    assert list(feeds[0]) == ["x", "z", "large", "one"]
    np.testing.assert_array_equal(np.concatenate([each["x"] for each in feeds]), pixels)
    np.testing.assert_array_equal(np.concatenate([each["z"] for each in feeds]), np.roll(pixels, -1, 0))
    np.testing.assert_array_equal(
        np.concatenate([each["large"] for each in feeds])[:, :, ::2, ::2], np.roll(pixels, -2, 0)
    )
    np.testing.assert_array_equal(feeds[1]["one"], pixels[:1])  # beside a whole batch
    assert found.images == ("x", "z", "large", "one")
    (later,) = found.feeds([pixels], first=4)
    np.testing.assert_array_equal(later["z"], np.roll(pixels, -1, 0))


def test_numbers_hang_on_name_and_place_alone():
    inputs = "float[N,3] a, float[N,3] b, int64[N,9] c, float[N,1,24,32] mask, float[N,3] im_info, float[N,2] scale"
    found = into(inputs)
    (whole,) = found.feeds([images(6)])
    parts = found.feeds([images(2), images(4)])
    (later,) = found.feeds([images(4)], first=2)
    for name in "a", "b", "c", "mask":
        assert len(np.unique(whole[name], axis=0)) == 6
        np.testing.assert_array_equal(np.concatenate([each[name] for each in parts]), whole[name])
        np.testing.assert_array_equal(later[name], whole[name][2:])
    assert not np.array_equal(whole["a"], whole["b"])
    assert (whole["c"].min(), whole["c"].max()) == (1, 4)
    assert 0 <= whole["mask"].min() < 0.1 < 0.9 < whole["mask"].max() <= 1
    assert whole["im_info"].tolist() == [[24, 32, 1]] * 6
    assert (whole["scale"] == 1).all()


def test_a_mask_of_bytes_goes_to_255():
    assert only(f"uint8[N,1,{SIDES}] z").values(range(2)).max() > 200


def test_arrays_of_the_user_come_first():
    array = RNG.normal(size=(4, 7)).astype(np.float32)
    other = only("float[N,tokens] z", given={"z": array, "unknown": array})
    assert (other.role, other.shape) == ("given", (7,))
    np.testing.assert_array_equal(other.values(range(2, 6)), array[[2, 3, 0, 1]])
    turned = other.reordered(np.array([3, 1]))
    np.testing.assert_array_equal(turned.values(range(2)), array[[3, 1]])
    assert only("float[2,3] z", given={"z": np.ones((2, 3), np.float64)}).values(range(9)).shape == (2, 3)
    check_rows([other], 4)
    with pytest.raises(OnnxdfqError, match="the array z in the npz has 4 rows for 5 images"):
        check_rows([other], 5)


@pytest.mark.parametrize(
    "array", [np.ones((4, 6)), np.ones(4), np.ones((4, 7), np.int64), np.ones((0, 7)), np.ones((4, 7), bool)]
)
def test_an_array_that_does_not_fit_is_refused(array):
    with pytest.raises(OnnxdfqError, match=r"the array z in the npz is .* the model's input float32 \[N, 7\]"):
        only("float[N,7] z", given={"z": array})


def test_what_is_no_tensor_of_numbers_is_refused():
    with pytest.raises(OnnxdfqError, match="input z is no tensor of numbers"):
        only("string[N] z")
    model = model_of("float[N] z")
    model.graph.input[1].CopyFrom(helper.make_tensor_sequence_value_info("z", onnx.TensorProto.FLOAT, None))
    with pytest.raises(OnnxdfqError, match="input z is no tensor of numbers"):
        model_input(model, lambda candidate: True)


def test_sizes_and_scales_have_no_known_range():
    bounded = {
        other.name: other.bounded for other in into("float[N,2] im_shape, float[N,2] scale, float[N,9] z").others
    }
    assert bounded == {"im_shape": False, "scale": False, "z": True}


def test_a_line_for_the_report():
    assert only("int64[N,2] im_shape").describe() == (
        "input im_shape (int64 Nx2) is fed with the height and width of the image"
    )
    assert only("int64 z").describe().startswith("input z (int64 scalar)")


# -- torch


def subject(layout="NCHW"):
    last = layout == "NHWC"
    image = "float[N,16,20,3]" if last else "float[N,3,16,20]"
    turn = "Transpose<perm = [0, 3, 1, 2]>" if last else "Identity"
    large = "float[N,32,40,3]" if last else "float[N,3,32,40]"
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N] label, {large} z, {image} x, float[N,2] im_info) => (float[N,3] y) {{
            a = {turn} (x) b = {turn} (z) p = GlobalAveragePool (a) q = GlobalAveragePool (b) d = Sub (p, q)
            f = Flatten (d) t = Gather (table, label) u = Add (f, t) i = ReduceSum<keepdims = 1> (im_info, one)
            y = Mul (u, i)
        }}"""
    )
    table = RNG.normal(size=(9, 3)).astype(np.float32)
    model.graph.initializer.extend(
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.int64([1]), "one")]
    )
    found = model_input(model, lambda candidate: True)
    assert found.images == ("z", "x")
    return model, Subject(model, found, preset("imagenet", 3, ""), guides(model))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_torch_is_fed_with_the_same(layout):
    model, like = subject(layout)
    pixels = RNG.integers(0, 256, (4, 3, like.into.height, like.into.width)).astype(np.float32)
    (feeds,) = like.into.feeds([like.domain.to_model(pixels, like.into)])
    inputs = Inputs(like, 4, torch.device("cpu"))(torch.tensor(pixels / 255))
    assert len(inputs) == 4
    for entry, values in zip(model.graph.input, inputs, strict=True):
        np.testing.assert_allclose(values.numpy(), feeds[entry.name], rtol=1e-5, atol=1e-5)
        assert values.numpy().dtype == feeds[entry.name].dtype


def test_gradients_reach_the_pixels_through_both_images():
    _, like = subject()
    teacher = Teacher(like)
    pixels = torch.rand(teacher.size, 3, like.into.height, like.into.width, requires_grad=True)
    (outputs,), _ = teacher(pixels)
    outputs[0].sum().backward()
    reached = pixels.grad.abs().sum((1, 2, 3)) > 0
    assert reached.tolist() == [True, True] + [False] * (teacher.size - 2)
