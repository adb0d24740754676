"""Resize against ONNX Runtime: the rules that torch has too, and those that it has not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from onnxdfq.engine.lower import lower

random = np.random.default_rng(0)

COORDINATES = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
]


def f(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scale", [2.0, 3.0, 4.0, 0.5, 1.3], ids=str)
def test_scales(scale: float, mode: str, coordinates: str, node_agrees: Callable[..., None]) -> None:
    options = {"mode": mode, "coordinate_transformation_mode": coordinates}
    node_agrees("Resize", f(2, 3, 6, 9), None, f32(1, 1, scale, 2), opset=19, **options)


@pytest.mark.parametrize("nearest_mode", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest(coordinates: str, nearest_mode: str, node_agrees: Callable[..., None]) -> None:
    options = {"nearest_mode": nearest_mode, "coordinate_transformation_mode": coordinates}
    for scale in (2.0, 4.0):
        node_agrees("Resize", f(1, 2, 3, 5), None, f32(1, 1, scale, 1), opset=19, **options)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4, 6)], ids=["signal", "volume"])
def test_signals_and_volumes(
    shape: tuple[int, ...], mode: str, coordinates: str, node_agrees: Callable[..., None]
) -> None:
    sizes = i64(2, 3, *(2 * length - 1 for length in shape[2:]))
    options = {"mode": mode, "coordinate_transformation_mode": coordinates}
    node_agrees("Resize", f(*shape), None, None, sizes, opset=18, **options)


@pytest.mark.parametrize("exclude_outside", [0, 1])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(mode: str, coordinates: str, exclude_outside: int, node_agrees: Callable[..., None]) -> None:
    options = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "exclude_outside": exclude_outside,
        "antialias": 1,
    }
    node_agrees("Resize", f(1, 2, 7, 9), None, None, i64(1, 2, 3, 4), opset=19, **options)
    node_agrees("Resize", f(1, 2, 7, 9), None, f32(1, 1, 1.6, 0.45), opset=19, **options)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("region", [(0.1, 0.2, 0.7, 0.9), (-0.3, 0.2, 1.3, 0.9)], ids=["inside", "beyond"])
def test_crop(region: tuple[float, ...], mode: str, node_agrees: Callable[..., None]) -> None:
    roi = f32(0, 0, *region[:2], 1, 1, *region[2:])
    options = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    node_agrees("Resize", f(1, 2, 7, 9), roi, None, i64(1, 2, 5, 12), opset=13, **options)
    # ONNX Runtime reads all of an axis whose length stays the same, whatever the region.
    node_agrees("Resize", f(1, 2, 7, 9), roi, None, i64(1, 2, 1, 10), opset=13, **options)
    node_agrees("Resize", f(1, 2, 7, 9), roi, f32(1, 1, 2, 1.5), opset=13, **options)
    axes = {"axes": [3, 2]}
    node_agrees("Resize", f(1, 2, 7, 9), f32(*region), None, i64(4, 12), opset=18, **axes, **options)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("dtype", [np.int8, np.int32])
def test_integers(dtype: type, mode: str, node_agrees: Callable[..., None]) -> None:
    """Twice as large, interpolation ends on quarters, which are exact in both: both cut off what follows the point."""
    x = random.integers(-100, 100, (1, 2, 4, 5)).astype(dtype)
    node_agrees("Resize", x, None, f32(1, 1, 2, 2), opset=13, mode=mode)


@pytest.mark.parametrize(
    "attributes",
    [
        "mode = 'linear'",
        "mode = 'linear', coordinate_transformation_mode = 'asymmetric'",
        "mode = 'linear', antialias = 1",
        "mode = 'cubic', antialias = 1, exclude_outside = 1",
        "mode = 'cubic', cubic_coeff_a = -0.5",
        "mode = 'linear', coordinate_transformation_mode = 'tf_crop_and_resize'",
    ],
)
def test_gradient_agrees_with_finite_differences(attributes: str) -> None:
    body = f"y = Resize <{attributes}> (x, roi, , sizes)".replace("'", '"')
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 19]> graph (double[1, 2, 5, 4] x) => (double y)
        < float[8] roi = {{0, 0, 0.1, 0.2, 1, 1, 0.8, 1.2}}, int64[4] sizes = {{1, 2, 3, 7}} > {{ {body} }}"""
    )
    x = torch.from_numpy(random.standard_normal((1, 2, 5, 4))).requires_grad_()
    assert torch.autograd.gradcheck(lower(model), x)
