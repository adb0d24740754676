"""The low-pass that images are seen through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxdfq.images.low_pass import low_pass

SIZES = [(8, 8), (7, 9), (32, 5), (1, 6)]


def noise(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cutoff", [0.05, 0.25, 0.5])
def test_form_and_mean_stay_and_constants_too(size: tuple[int, int], cutoff: float) -> None:
    image = noise(*size)
    filtered = low_pass(image, cutoff)
    assert filtered.shape == image.shape
    torch.testing.assert_close(filtered.mean((2, 3)), image.mean((2, 3)))
    constant = torch.full_like(image, 0.3)
    torch.testing.assert_close(low_pass(constant, cutoff), constant)


@pytest.mark.parametrize("cutoff", [0.05, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("size", [(16, 16), (15, 7)])
def test_pixels_stay_between_the_darkest_and_the_brightest(size: tuple[int, int], cutoff: float) -> None:
    image = torch.full((1, 1, *size), 0.2)
    image[0, 0, size[0] // 2, size[1] // 2] = 0.8  # what rings most
    filtered = low_pass(image, cutoff)
    assert float(filtered.min()) > 0.2 - 1e-6
    assert float(filtered.max()) < 0.8


@pytest.mark.parametrize("size", [(16, 16), (15, 9)])
def test_frequencies_are_damped_as_those_of_a_gaussian_the_higher_the_more(size: tuple[int, int]) -> None:
    image, cutoff = noise(*size), 0.15
    before, after = (np.abs(np.fft.fft2(each.numpy())) for each in (image, low_pass(image, cutoff)))
    rows, columns = np.meshgrid(*map(np.fft.fftfreq, size), indexing="ij")
    damping = np.exp(-(rows**2 + columns**2) / (2 * cutoff**2))
    low, high = damping > 0.05, damping < 1e-3
    np.testing.assert_allclose((after / before)[..., low], np.broadcast_to(damping[low], (2, 3, low.sum())), rtol=0.02)
    assert (after[..., high] < 0.01 * before[..., high]).all()


def test_a_wide_cutoff_changes_little_and_a_narrow_one_leaves_the_mean() -> None:
    image = noise(16, 16)
    kept, changed = (float((low_pass(image, cutoff) - image).abs().mean()) for cutoff in (1.0, 0.1))
    assert kept < 0.2 * changed
    assert float(low_pass(image, 0.005).std((2, 3)).max()) < 1e-5


def test_gradients_go_through() -> None:
    image = noise(8, 8).requires_grad_()
    low_pass(image, 0.2)[0, 0, 4, 4].backward()
    assert image.grad is not None
    assert float(image.grad[0, 0].min()) > -1e-6  # the kernel is positive, but for rounding
    assert int(image.grad[0, 0].argmax()) == 8 * 4 + 4
    assert float(image.grad[1].abs().max()) == 0
