"""MaxUnpool, Col2Im and CenterCropPad against ONNX Runtime, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from onnxdfq.engine.lower import lower

random = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("size", "out"), [((3,), (6,)), ((3, 4), (6, 8)), ((2, 3, 2), (4, 6, 4))])
def test_max_unpool(size: tuple[int, ...], out: tuple[int, ...], node_agrees: Callable[..., None]) -> None:
    places = random.permutation(2 * 3 * int(np.prod(out)))[: 2 * 3 * int(np.prod(size))].reshape(2, 3, *size)
    two = [2] * len(size)
    node_agrees("MaxUnpool", f(2, 3, *size), places, opset=11, kernel_shape=two, strides=two)


@pytest.mark.parametrize(
    "attributes", [{}, {"strides": [2, 1]}, {"pads": [1, 0, 0, 1]}, {"dilations": [2, 1]}], ids=str
)
def test_col2im(attributes: dict[str, list[int]], node_agrees: Callable[..., None]) -> None:
    image, block = np.array([6, 5]), np.array([2, 3])
    pads = attributes.get("pads", [0] * 4)
    steps, spread = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    reach = (block - 1) * spread + 1
    count = np.prod((image + pads[:2] + pads[2:] - reach) // steps + 1)
    node_agrees("Col2Im", f(2, 3 * 6, count), image, block, opset=18, **attributes)


@pytest.mark.parametrize("shape", [(4, 6, 5), (7, 9, 2), (2, 9, 5)], ids=str)
def test_center_crop_pad(shape: tuple[int, ...], node_agrees: Callable[..., None]) -> None:
    node_agrees("CenterCropPad", f(5, 6, 3), np.array(shape), opset=18)
    node_agrees("CenterCropPad", f(5, 6, 3), np.array(shape[:2]), opset=18, axes=[-1, 0])


@pytest.mark.parametrize(
    "body",
    [
        "y = MaxUnpool <kernel_shape = [2], strides = [2]> (x, places)",
        "y = MaxUnpool <kernel_shape = [2], strides = [2]> (x, places, shape)",
        "y = Col2Im (x, image, block)",
        "y = CenterCropPad <axes = [1, 2]> (x, image)",
    ],
)
def test_gradient_agrees_with_finite_differences(body: str) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]> graph (double[1, 4, 2] x) => (double y)
        < int64[1, 4, 2] places = {{0, 3, 4, 6, 9, 10, 12, 15}}, int64[3] shape = {{1, 4, 5}},
          int64[2] image = {{2, 3}}, int64[2] block = {{2, 2}} > {{ {body} }}"""
    )
    assert torch.autograd.gradcheck(lower(model), torch.from_numpy(random.standard_normal((1, 4, 2))).requires_grad_())
