"""What images are asked to be, in numbers."""

from __future__ import annotations

import pytest
import torch

from onnxdfq.images.losses import roughness


def test_roughness_counts_neighbours_in_both_directions() -> None:
    assert float(roughness(torch.tensor([[[[0.0, 1.0], [0.5, 1.5]]]]))) == pytest.approx(1.0 + 0.5)


def test_images_one_pixel_high_have_neighbours_in_one_direction() -> None:
    assert float(roughness(torch.tensor([[[[0.0, 1.0, 3.0]]]]))) == pytest.approx(1.5)
