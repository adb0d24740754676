"""Images that judge: of three kinds, none of them what calibrated."""

from __future__ import annotations

import numpy as np

from onnxdfq.images.judges import judges

HELD_OUT = np.stack([np.full((3, 8, 8), value, np.float32) for value in (0, 100, 255)])


def test_three_kinds_of_whole_pixels() -> None:
    found = judges(HELD_OUT, 12, 0)
    assert {kind: pixels.shape for kind, pixels in found.items()} == {
        "alike": (3, 3, 8, 8), "mixed": (12, 3, 8, 8), "drawn": (12, 3, 8, 8)
    }  # fmt: skip
    for pixels in found.values():
        assert pixels.dtype == HELD_OUT.dtype
        np.testing.assert_array_equal(pixels, pixels.round())
        assert pixels.min() >= 0
        assert pixels.max() <= 255


def test_mixtures_lie_between_two_different_images() -> None:
    values = judges(HELD_OUT, 60, 0)["mixed"][:, 0, 0, 0]
    assert 0 < values.min() < values.max() < 255
    assert len(set(values)) > 20


def test_one_image_alone_is_mixed_with_itself() -> None:
    np.testing.assert_array_equal(judges(HELD_OUT[1:2], 4, 0)["mixed"], np.full((4, 3, 8, 8), 100))


def test_the_same_seed_gives_the_same_images() -> None:
    first, again, other = (judges(HELD_OUT, 6, seed) for seed in (0, 0, 1))
    for kind in ("mixed", "drawn"):
        np.testing.assert_array_equal(first[kind], again[kind])
        assert not np.array_equal(first[kind], other[kind])
