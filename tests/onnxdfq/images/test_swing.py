"""Convolutions with strides that see their input moved."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from torch import Tensor, fx

from onnxdfq.engine.lower import lower
from onnxdfq.images.swing import swing


def network(text: str, **weights: tuple[int, ...]) -> fx.GraphModule:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    size = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    return lower(onnx.shape_inference.infer_shapes(model), trainable=False, input_shapes={"x": size})


def swinging(text: str, seed: int = 0, **weights: tuple[int, ...]) -> fx.GraphModule:
    moving = network(text, **weights)
    swing(moving, torch.Generator().manual_seed(seed))
    return moving


STRIDED = "g (float[2, 1, 8, 9] x) => (float[2, 1, a, b] y) { y = Conv<strides = [2, 2]>(x, w) }"
IMAGE = torch.rand(2, 1, 8, 9, generator=torch.Generator().manual_seed(0))


def test_every_place_around_is_seen_equally_often() -> None:
    moving = swinging(STRIDED, w=(1, 1, 1, 1))
    padded = torch.nn.functional.pad(IMAGE, (1, 1, 1, 1), mode="reflect")
    views = {(top, left): padded[:, :, top : top + 8 : 2, left : left + 9 : 2] for top in range(3) for left in range(3)}
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(900):
        (output,) = moving(IMAGE)
        seen[next(place for place, view in views.items() if torch.equal(output, view))] += 1
    assert len(seen) == 9
    assert min(seen.values()) > 60
    assert max(seen.values()) < 140


def reached(moving: fx.GraphModule, draws: int) -> Tensor:
    image = IMAGE.clone().requires_grad_()
    for _ in range(draws):
        moving(image)[0].sum().backward()
    assert image.grad is not None
    return image.grad


def test_gradients_reach_pixels_that_strides_pass_over() -> None:
    assert (reached(network(STRIDED, w=(1, 1, 1, 1)), 1) == 0).float().mean() > 0.7
    assert (reached(swinging(STRIDED, w=(1, 1, 1, 1)), 60) > 0).all()


def test_the_generator_decides() -> None:
    one, same, other = (swinging(STRIDED, seed, w=(1, 1, 1, 1)) for seed in (1, 1, 2))
    outputs = [torch.stack([each(IMAGE)[0] for _ in range(10)]) for each in (one, same, other)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("strides", ["[2, 1]", "[1, 2]", "[3, 3]"])
def test_strides_along_any_axis_swing(strides: str) -> None:
    moving = swinging(STRIDED.replace("[2, 2]", strides), w=(1, 1, 3, 3))
    assert len({tuple(moving(IMAGE)[0].flatten().tolist()) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2, 1, 8, 9] x) => (float[2, 1, a, b] y) { y = Conv(x, w) }",
        "g (float[2, 1, 8, 9] x) => (float[2, 1, a, b] y) { y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }",
        "g (float[2, 1, 8, 9] x) => (float[2, 1, a, b] y) { y = ConvTranspose<strides = [2, 2]>(x, w) }",
    ],
    ids=["no strides", "pooling", "transposed"],
)
def test_nothing_else_swings(text: str) -> None:
    weights = {"w": (1, 1, 3, 3)} if "w)" in text else {}
    plain, moving = network(text, **weights), swinging(text, **weights)
    for _ in range(5):
        assert torch.equal(moving(IMAGE)[0], plain(IMAGE)[0])


def test_only_what_the_convolution_reads_moves() -> None:
    text = STRIDED.replace("(float[2, 1, a, b] y)", "(float[2, 1, a, b] y, float[2, 1, 8, 9] z)")
    moving = swinging(text.replace("}", "z = Relu(x) }"), w=(1, 1, 1, 1))
    for _ in range(5):
        assert torch.equal(moving(IMAGE)[1], IMAGE)


def test_lines_and_single_pixels_stay() -> None:
    line = "g (float[1, 1, 7] x) => (float[1, 1, a] y) { y = Conv<strides = [2]>(x, w) }"
    assert torch.equal(swinging(line, w=(1, 1, 1))(torch.arange(7.0)[None, None])[0][0, 0], torch.arange(0.0, 7, 2))
    pixel = "g (float[1, 1, 1, 5] x) => (float[1, 1, 1, a] y) { y = Conv<strides = [2, 2]>(x, w) }"
    values = torch.arange(5.0)[None, None, None]
    assert torch.equal(swinging(pixel, w=(1, 1, 1, 1))(values)[0], values[..., ::2])
