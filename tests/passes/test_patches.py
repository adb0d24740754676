"""Rows times kernels are what the runtime computes, at every position and under every kind of padding."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.layer_kernels import kernels_of
from passes.patches import patches
from tests.passes.conftest import model_of, run

RNG = np.random.default_rng(3)
EVERY = 10**6
CASES = {  # attributes, input, weights
    "plain": ("", (3, 4, 7, 6), (5, 4, 3, 2)),
    "1x1": ("", (3, 4, 7, 6), (5, 4, 1, 1)),
    "strides": ("strides = [2, 3]", (3, 4, 9, 8), (5, 4, 3, 3)),
    "1x1 strides": ("strides = [2, 2]", (3, 4, 9, 8), (5, 4, 1, 1)),
    "dilations": ("dilations = [2, 3]", (3, 4, 9, 8), (5, 4, 3, 2)),
    "pads": ("pads = [1, 0, 2, 3]", (3, 4, 7, 6), (5, 4, 3, 3)),
    "everything": ("pads = [2, 1, 0, 3], strides = [2, 1], dilations = [1, 2], group = 2", (2, 4, 9, 8), (6, 2, 3, 3)),
    "more padding than image": ("pads = [4, 4, 4, 4]", (2, 4, 2, 2), (5, 4, 3, 3)),
    "same upper": ('auto_pad = "SAME_UPPER", strides = [2, 3]', (3, 4, 9, 8), (5, 4, 4, 3)),
    "same lower": ('auto_pad = "SAME_LOWER", strides = [2, 3]', (3, 4, 9, 8), (5, 4, 4, 3)),
    "same upper of even kernels": ('auto_pad = "SAME_UPPER"', (3, 4, 9, 8), (5, 4, 4, 2)),
    "same lower of even kernels": ('auto_pad = "SAME_LOWER"', (3, 4, 9, 8), (5, 4, 4, 2)),
    "same with a stride beyond the kernel": ('auto_pad = "SAME_UPPER", strides = [3, 2]', (3, 4, 8, 7), (5, 4, 1, 1)),
    "valid": ('auto_pad = "VALID", strides = [2, 2]', (3, 4, 9, 8), (5, 4, 3, 3)),
    "groups": ("group = 2", (3, 4, 7, 6), (6, 2, 3, 3)),
    "depthwise": ("group = 4, pads = [1, 1, 1, 1]", (3, 4, 7, 6), (4, 1, 3, 3)),
    "depthwise, two of each": ("group = 4", (3, 4, 7, 6), (8, 1, 3, 3)),
    "1-d": ("pads = [2, 1], strides = [2], dilations = [2]", (3, 4, 11), (5, 4, 3)),
    "1-d same lower": ('auto_pad = "SAME_LOWER", strides = [2]', (3, 4, 10), (5, 4, 3)),
    "3-d": ("pads = [1, 0, 1, 1, 0, 1], strides = [1, 2, 1], group = 2", (2, 4, 4, 5, 3), (6, 2, 2, 3, 2)),
}


def conv(case):
    attributes, size, stored = CASES[case]
    text = f"y = Conv <{attributes}> (x, w)" if attributes else "y = Conv (x, w)"
    shapes = [",".join(map(str, size)), ",".join("NCDHW"[: len(size)])]
    model = model_of(f"g (float[{shapes[0]}] x) => (float[{shapes[1]}] y) {{ {text} }}",
                     w=RNG.standard_normal(stored).astype(np.float32))  # fmt: skip
    x = RNG.standard_normal(size).astype(np.float32)
    return gs.import_onnx(model).nodes[0], x, run(model, x)[0]


def multiplied(layer, rows):
    """[count, O]."""
    kernels = kernels_of(layer).reshape(rows.shape[1], -1, rows.shape[2])
    return np.einsum("ngd,god->ngo", rows, kernels).reshape(len(rows), -1)


@pytest.mark.parametrize("case", CASES)
def test_at_all_positions_the_product_is_what_the_runtime_computes(case):
    layer, x, y = conv(case)
    found = multiplied(layer, patches(layer, x, EVERY, np.random.default_rng(0)))
    chosen = np.random.default_rng(0)  # the positions come shuffled
    places = int(np.prod(y.shape[2:]))
    order = chosen.choice(places, places, replace=False)
    expected = y.reshape(*y.shape[:2], -1)[:, :, order].transpose(0, 2, 1).reshape(-1, y.shape[1])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["plain", "everything", "1-d"])
def test_some_positions_are_other_ones_of_those_and_no_position_comes_twice(case):
    layer, x, y = conv(case)
    every = {tuple(row) for row in multiplied(layer, patches(layer, x, EVERY, RNG)).round(3)}
    rows = patches(layer, x, 9, RNG)
    assert len(rows) == -(-9 // len(x)) * len(x)
    found = [tuple(row) for row in multiplied(layer, rows).round(3)]
    assert len(set(found)) == len(found)
    assert len(every) == y.size // y.shape[1]


def test_rows_of_one_image_follow_each_other():
    layer, x, _ = conv("dilations")
    x[:] = np.arange(1, 4).reshape(3, 1, 1, 1)
    rows = patches(layer, x, 30, RNG)
    np.testing.assert_array_equal(rows.max((1, 2)), np.repeat([1, 2, 3], 10))


def test_equal_generators_give_equal_positions_whatever_the_values_are():
    layer, x, _ = conv("everything")
    first, second, third = (patches(layer, each, 12, np.random.default_rng(seed)) for each, seed in
                            ((x, 4), (2 * x, 4), (x, 5)))  # fmt: skip
    np.testing.assert_array_equal(2 * first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize(("text", "size", "stored"), [
    ("y = Gemm (x, w)", (7, 6), (6, 4)),
    ("y = Gemm <transB = 1> (x, w)", (7, 6), (4, 6)),
    ("y = MatMul (x, w)", (7, 6), (6, 4)),
    ("y = MatMul (x, w)", (2, 3, 5, 6), (6, 4)),
])  # fmt: skip
def test_rows_of_a_matrix_are_all_of_it_or_some_of_its_rows(text, size, stored):
    shapes = [",".join(map(str, size)), ",".join("NCDHW"[: len(size)])]
    model = model_of(f"g (float[{shapes[0]}] x) => (float[{shapes[1]}] y) {{ {text} }}",
                     w=RNG.standard_normal(stored).astype(np.float32))  # fmt: skip
    layer = gs.import_onnx(model).nodes[0]
    x = RNG.standard_normal(size).astype(np.float32)
    y = run(model, x)[0].reshape(-1, 4)
    every = patches(layer, x, EVERY, RNG)
    assert every.shape == (len(y), 1, 6)
    np.testing.assert_allclose(multiplied(layer, every), y, rtol=1e-4, atol=1e-5)
    some = multiplied(layer, patches(layer, x, 5, RNG))
    assert some.shape == (5, 4)
    assert {tuple(row) for row in some.round(3)} < {tuple(row) for row in y.round(3)}
    again = [patches(layer, factor * x, 5, np.random.default_rng(8)) for factor in (1, 2)]
    np.testing.assert_array_equal(2 * again[0], again[1])
