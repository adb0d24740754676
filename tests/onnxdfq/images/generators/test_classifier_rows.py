"""The rows by which a classifier tells its classes apart are found, whatever layer holds them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxdfq.images.generators.classifier_rows import classifier_rows

ROWS = np.arange(20, dtype=np.float32).reshape(5, 4)  # 5 classes, 4 features


def model_of(body, weights, shape="N, 4"):
    text = f"g (float[{shape}] x) => (float[N, 5] y) {{ {body} }}"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    held = {"w": weights, "b": np.zeros(5, np.float32), "shape": np.array([0, -1])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    return model


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = Gemm<transB = 1>(x, w, b)", ROWS),
        ("y = Gemm(x, w, b)", ROWS.T),
        ("y = MatMul(x, w)", ROWS.T),
        ("m = MatMul(x, w) s = Add(b, m) y = Softmax(s)", ROWS.T),
        ("c = Conv(x, w, b) y = Flatten(c)", ROWS[:, :, None, None]),
        ("c = Conv(x, w, b) r = Relu(c) p = GlobalAveragePool(r) y = Reshape(p, shape)", ROWS[:, :, None, None]),
    ],
)
def test_rows_are_found(body, weights):
    found = classifier_rows(model_of(body, weights, "N, 4, 1, 1" if "Conv" in body else "N, 4"), 5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ROWS)


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = Relu(x)", ROWS),
        ("t = Transpose(w) y = MatMul(x, t)", ROWS),  # computed weights
        ("c = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Flatten(c)", np.zeros((5, 4, 3, 3), np.float32)),
        ("m = MatMul(x, w) n = Gemm<transB = 1>(x, w) y = Add(m, n)", ROWS.T),  # two writers: which is it?
        ("y = MatMul(x, w)", ROWS),  # four outputs are not five classes
    ],
)
def test_no_rows_where_there_are_none(body, weights):
    assert classifier_rows(model_of(body, weights, "N, 4, 1, 1" if "Conv" in body else "N, 4"), 5) is None
