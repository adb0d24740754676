"""The tests of the standard itself: node tests and the models that the onnx package ships."""

from __future__ import annotations

from conformance import standard_tests, unknown_names

_CASES = standard_tests(__name__)
globals().update(_CASES)


def test_every_exclusion_names_a_test() -> None:
    assert unknown_names(_CASES) == []
