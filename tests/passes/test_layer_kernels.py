"""All weights in one order: there and back again, and as many rows times columns as the runtime multiplies."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.layer_kernels import as_stored, groups_of, kernels_of
from tests.passes.conftest import model_of, run

RNG = np.random.default_rng(5)
CASES = {  # operators, input and weights, (output channels, input channels of each, taps), groups
    "conv": ("y = Conv (x, w)", (2, 6, 5, 4), (4, 6, 5, 4), (4, 6, 20), 1),
    "conv 1-d": ("y = Conv (x, w)", (2, 6, 3), (4, 6, 3), (4, 6, 3), 1),
    "conv grouped": ("y = Conv <group = 2> (x, w)", (2, 6, 3, 3), (4, 3, 3, 3), (4, 3, 9), 2),
    "depthwise": ("y = Conv <group = 6> (x, w)", (2, 6, 3, 3), (12, 1, 3, 3), (12, 1, 9), 6),
    "transposed": ("y = ConvTranspose (x, w)", (2, 6, 1, 1), (6, 4, 3, 2), (4, 6, 6), 1),
    "transposed 1-d": ("y = ConvTranspose (x, w)", (2, 6, 1), (6, 4, 3), (4, 6, 3), 1),
    "transposed grouped": ("y = ConvTranspose <group = 2> (x, w)", (2, 6, 1, 1), (6, 4, 3, 2), (8, 3, 6), 2),
    "transposed depthwise": ("y = ConvTranspose <group = 6> (x, w)", (2, 6, 1, 1), (6, 1, 2, 2), (6, 1, 4), 6),
    "gemm": ("y = Gemm (x, w)", (2, 6), (6, 4), (4, 6, 1), 1),
    "gemm transB": ("y = Gemm <transB = 1> (x, w)", (2, 6), (4, 6), (4, 6, 1), 1),
    "matmul": ("y = MatMul (x, w)", (2, 6), (6, 4), (4, 6, 1), 1),
}


@pytest.fixture(params=CASES)
def case(request):
    text, size, stored, expected, groups = CASES[request.param]
    weights = RNG.standard_normal(stored).astype(np.float32)
    shapes = [",".join(map(str, size)), ",".join("NCHW"[: len(size)])]
    model = model_of(f"g (float[{shapes[0]}] x) => (float[{shapes[1]}] y) {{ {text} }}", w=weights)
    x = RNG.standard_normal(size).astype(np.float32)
    return gs.import_onnx(model).nodes[0], weights, x, run(model, x)[0], expected, groups


def test_shape_and_groups(case):
    layer, _, _, _, expected, groups = case
    assert kernels_of(layer).shape == expected
    assert groups_of(layer) == groups


def test_there_and_back_again(case):
    layer, weights, *_ = case
    back = as_stored(layer, kernels_of(layer), weights.shape)
    np.testing.assert_array_equal(back, weights)
    other = RNG.standard_normal(weights.shape)
    np.testing.assert_array_equal(as_stored(layer, kernels_of(layer, other), weights.shape), other)


def test_the_weights_are_left_as_they_are(case):
    layer, weights, *_ = case
    kernels = kernels_of(layer).copy()
    kernels[0] += 1
    as_stored(layer, kernels, weights.shape)
    np.testing.assert_array_equal(layer.inputs[1].values, weights)


def test_output_channels_read_what_the_order_says(case):
    """One position of the input: a convolution's only window, and all that a transposed one spreads from there."""
    layer, _, x, y, (channels, width, taps), groups = case
    kernels = kernels_of(layer).reshape(groups, channels // groups, width, taps)
    if layer.op == "ConvTranspose":
        found = np.einsum("ngi,goik->ngok", x.reshape(2, groups, width), kernels)
    else:
        found = np.einsum("ngik,goik->ngo", x.reshape(2, groups, width, taps), kernels)
    np.testing.assert_allclose(found.reshape(y.shape), y, rtol=1e-4, atol=1e-5)
