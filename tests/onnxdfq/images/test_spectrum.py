"""Fourier coefficients: the same images, and steps that look like photographs."""

import pytest
import torch

from onnxdfq.images.spectrum import Spectrum


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 5), (12, 6)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_image_comes_back(channels, size):
    z = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    spectrum = Spectrum(channels, *size, torch.device("cpu"))
    torch.testing.assert_close(spectrum.image(spectrum.coefficients(z)), z, rtol=1e-4, atol=1e-4)


def noise(channels=3):
    spectrum = Spectrum(channels, 64, 64, torch.device("cpu"))
    coefficients = torch.randn(16, channels, 64, 33, 2, generator=torch.Generator().manual_seed(0))
    return spectrum.image(coefficients)


def test_equal_steps_in_all_coefficients_are_strong_in_low_frequencies():
    z = noise()
    power = torch.fft.rfft2(z).abs().square().mean((0, 1))
    assert power[2, 2] > 20 * power[20, 20]
    ratio = float(power[4, 0] / power[8, 0])  # amplitude 1 / f: power falls to a quarter when f doubles
    assert ratio == pytest.approx(4, rel=0.5)


def test_and_alike_in_all_colours():
    z = noise()
    correlation = torch.corrcoef(z.transpose(0, 1).flatten(1))
    assert ((correlation - 0.9).abs() < 0.05)[~torch.eye(3, dtype=torch.bool)].all()
