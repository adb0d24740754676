"""GridSample, AffineGrid, DeformConv, RoiAlign and NonMaxSuppression against ONNX Runtime, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from onnxdfq.engine.lower import lower

random = np.random.default_rng(0)

ONNX_TYPES = {torch.float32: "FLOAT", torch.float64: "DOUBLE", torch.int32: "INT32", torch.int64: "INT64"}
PADDINGS = ["zeros", "border", "reflection"]
# Regions inside of the image, beyond its edges, turned around, and empty.
ROIS = np.array([[1, 1, 8, 9], [0, 2, 3.5, 20], [-4, -3, 30, 7], [5, 5, 4, 4], [2, 2, 2, 2]], np.float32)
IMAGES = np.array([0, 1, 1, 0, 1])


def f(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def double(*shape: int) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape)).requires_grad_()


def model(op: str, *inputs: torch.Tensor, **attributes: object) -> torch.nn.Module:
    """One node; all its inputs are inputs of the model."""
    names = [f"in{i}" for i in range(len(inputs))]
    entries = [
        helper.make_tensor_value_info(name, TensorProto.DataType.Value(ONNX_TYPES[value.dtype]), value.shape)
        for name, value in zip(names, inputs, strict=True)
    ]
    node = helper.make_node(op, names, ["out"], **attributes)
    graph = helper.make_graph([node], "graph", entries, [helper.make_empty_tensor_value_info("out")])
    return lower(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]))


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample_of_images(
    mode: str, padding_mode: str, align_corners: int, node_agrees: Callable[..., None]
) -> None:
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    grid = 1.5 * f(2, 3, 6, 2)  # a good part of it beyond the edges
    node_agrees("GridSample", f(2, 3, 4, 5), grid, opset=16, mode=mode, **options)
    node_agrees("GridSample", f(2, 3, 4, 5), grid, opset=20, mode=mode.removeprefix("bi"), **options)


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample_of_volumes(
    mode: str, padding_mode: str, align_corners: int, node_agrees: Callable[..., None]
) -> None:
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    node_agrees("GridSample", f(2, 3, 4, 5, 3), 1.5 * f(2, 3, 6, 2, 3), opset=22, **options)


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_grid_sample_in_the_middle_between_pixels(
    padding_mode: str, align_corners: int, node_agrees: Callable[..., None]
) -> None:
    steps = np.arange(-12, 13, dtype=np.float32) / 4
    grid = np.stack(np.meshgrid(steps, steps), -1)[None]
    options = {"mode": "nearest", "padding_mode": padding_mode, "align_corners": align_corners}
    node_agrees("GridSample", f(1, 1, 4, 5), grid, opset=20, **options)


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample_of_signals_is_that_of_images_with_one_row(
    mode: str, padding_mode: str, align_corners: int
) -> None:
    """ONNX Runtime samples images and volumes only."""
    x, grid = torch.from_numpy(f(2, 3, 6)), torch.from_numpy(1.5 * f(2, 5, 1))
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    image_grid = torch.cat([grid, torch.zeros_like(grid)], -1)[:, None]
    (expected,) = model("GridSample", x[:, :, None], image_grid, **options)(x[:, :, None], image_grid)
    (y,) = model("GridSample", x, grid, **options)(x, grid)
    torch.testing.assert_close(y, expected[:, :, 0])


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_cubic_grid_sample_of_volumes_is_that_of_images_in_a_plane(padding_mode: str) -> None:
    """ONNX Runtime and torch have cubic interpolation of images only."""
    x, grid = torch.from_numpy(f(1, 2, 1, 4, 5)), torch.from_numpy(1.5 * f(1, 3, 6, 2))
    options = {"mode": "cubic", "padding_mode": padding_mode}
    (expected,) = model("GridSample", x[:, :, 0], grid, **options)(x[:, :, 0], grid)
    volume_grid = torch.cat([grid, torch.zeros(1, 3, 6, 1)], -1)[:, None]
    (y,) = model("GridSample", x, volume_grid, **options)(x, volume_grid)
    torch.testing.assert_close(y[:, :, 0], expected)


def test_grid_sample_of_integers() -> None:
    x, grid = torch.arange(6, dtype=torch.int32).reshape(1, 1, 2, 3) * 10, torch.tensor([[[[0.35, 0.0]]]])
    (y,) = model("GridSample", x, grid, align_corners=1)(x, grid)
    assert y.dtype == torch.int32
    assert y.item() == 28  # the mean of 13.5 and 43.5, cut off


@pytest.mark.parametrize("align_corners", [0, 1])
def test_affine_grid(align_corners: int, node_agrees: Callable[..., None]) -> None:
    node_agrees("AffineGrid", f(2, 2, 3), np.array([2, 3, 4, 5]), opset=20, align_corners=align_corners)
    node_agrees("AffineGrid", f(2, 3, 4), np.array([2, 3, 4, 5, 6]), opset=20, align_corners=align_corners)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("offset_group", [1, 2])
@pytest.mark.parametrize("group", [1, 2])
def test_deform_conv(group: int, offset_group: int, masked: bool, node_agrees: Callable[..., None]) -> None:
    mask = f(2, offset_group * 6, 4, 4) if masked else None
    node_agrees(
        "DeformConv",
        f(2, 4, 7, 8),
        f(6, 4 // group, 3, 2),
        f(2, offset_group * 12, 4, 4),
        f(6),
        mask,
        opset=19,
        group=group,
        offset_group=offset_group,
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        dilations=[1, 2],
    )


def test_deform_conv_without_displacement_is_a_convolution() -> None:
    x, weight, offset = (
        torch.from_numpy(f(1, 2, 4, 5, 3)),
        torch.from_numpy(f(3, 2, 2, 3, 2)),
        torch.zeros(1, 36, 3, 3, 2),
    )
    (y,) = model("DeformConv", x, weight, offset)(x, weight, offset)
    torch.testing.assert_close(y, torch.nn.functional.conv3d(x, weight), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial_scale", [1.0, 0.5])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(
    mode: str, sampling_ratio: int, coordinates: str, spatial_scale: float, node_agrees: Callable[..., None]
) -> None:
    node_agrees(
        "RoiAlign",
        f(2, 3, 10, 12),
        ROIS,
        IMAGES,
        opset=16,
        mode=mode,
        sampling_ratio=sampling_ratio,
        coordinate_transformation_mode=coordinates,
        spatial_scale=spatial_scale,
        output_height=3,
        output_width=2,
    )


def test_roi_align_of_the_first_version_and_of_nothing(node_agrees: Callable[..., None]) -> None:
    node_agrees("RoiAlign", f(2, 3, 10, 12), ROIS, IMAGES, opset=10, output_height=3, output_width=2)
    node_agrees("RoiAlign", f(2, 3, 10, 12), ROIS[:0], IMAGES[:0], opset=16, output_height=3, output_width=2)


@pytest.mark.parametrize("center_point_box", [0, 1])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("score", [None, 0.4])
@pytest.mark.parametrize("limit", [3, 100])
def test_non_max_suppression(
    limit: int, score: float | None, overlap: float, center_point_box: int, node_agrees: Callable[..., None]
) -> None:
    boxes = random.uniform(0, 10, (2, 40, 4)).astype(np.float32)
    scores = random.uniform(0, 1, (2, 3, 40)).astype(np.float32).round(1)  # rounded: many are equal
    thresholds = [np.array([overlap], np.float32), None if score is None else np.array([score], np.float32)]
    node_agrees(
        "NonMaxSuppression",
        boxes,
        scores,
        np.array([limit]),
        *thresholds,
        opset=11,
        center_point_box=center_point_box,
    )


def test_non_max_suppression_selects_nothing_unless_told_how_many(node_agrees: Callable[..., None]) -> None:
    node_agrees("NonMaxSuppression", f(1, 5, 4), f(1, 2, 5), opset=11)
    node_agrees("NonMaxSuppression", f(1, 5, 4), f(1, 2, 5), np.array(0), opset=10)


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size", [(5,), (4, 5), (3, 2, 3)], ids=["signal", "image", "volume"])
def test_gradient_of_grid_sample(size: tuple[int, ...], mode: str, padding_mode: str) -> None:
    x, grid = double(1, 2, *size), double(1, *(2,) * len(size), len(size))
    assert torch.autograd.gradcheck(model("GridSample", x, grid, mode=mode, padding_mode=padding_mode), (x, grid))


def test_gradient_of_affine_grid() -> None:
    theta, size = double(2, 2, 3), torch.tensor([2, 3, 4, 5])
    assert torch.autograd.gradcheck(model("AffineGrid", theta, size), (theta, size))


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradient_of_roi_align(mode: str, sampling_ratio: int) -> None:
    x, rois = double(2, 2, 6, 7), torch.tensor([[1.1, 0.7, 4.2, 3.3], [-3.3, 2.1, 5.2, 8.7]], dtype=torch.float64)
    inputs = x, rois.requires_grad_(), torch.tensor([1, 0])
    options = {"mode": mode, "sampling_ratio": sampling_ratio, "output_height": 2, "output_width": 2}
    assert torch.autograd.gradcheck(model("RoiAlign", *inputs, **options), inputs)


def test_gradient_of_deform_conv() -> None:
    inputs = double(1, 4, 4, 3), double(2, 2, 2, 2), double(1, 16, 3, 2), double(2), double(1, 8, 3, 2)
    assert torch.autograd.gradcheck(model("DeformConv", *inputs, group=2, offset_group=2), inputs)
