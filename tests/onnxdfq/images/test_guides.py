"""What of a model can lead images."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdfq.images.guides import guides

NORM = "BatchNormalization({}, one, zero, mean, variance)"


def model(output: str, body: str) -> onnx.ModelProto:
    text = f"g (float[N, 3, 4, 4] x) => ({output} y) {{ {body} }}"
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    held = {"one": np.ones(3), "zero": np.zeros(3), "mean": np.full(3, 0.5), "variance": np.full(3, 4.0)}
    made.graph.initializer.extend(numpy_helper.from_array(each.astype(np.float32), name) for name, each in held.items())
    return made


def test_statistics_are_those_of_what_a_normalization_reads() -> None:
    found = guides(model("float[N, 3, 4, 4]", f"a = Relu(x) y = {NORM.format('a')}")).statistics
    assert found.keys() == {"a"}
    np.testing.assert_allclose(found["a"], [[0.5] * 3, [2.0] * 3], rtol=1e-5)


def test_a_normalization_of_the_input_leads_nothing() -> None:
    assert not guides(model("float[N, 3, 4, 4]", f"y = {NORM.format('x')}"))


@pytest.mark.parametrize(
    ("output", "classes"),
    [("float[N, 5]", 5), ("double[N, 5]", 5), ("float[N, 5, 1, 1]", 5), ("float[N, 5, 4, 4]", 0), ("float[N, 1]", 0),
     ("float[N, K]", 0), ("int64[N, 5]", 0)],
)  # fmt: skip
def test_classes_are_told_by_the_first_output(output: str, classes: int) -> None:
    assert guides(model(output, "y = Identity(x)")).classes == classes
