"""A Gaussian low-pass in Fourier space: photographs hold little in high frequencies, gradients put much there.

    x -> FFT -> times exp(-f^2 / (2 cutoff^2)) -> inverse FFT

As a convolution its kernel is positive and sums to one, so that pixels stay between the darkest and the brightest.
SynQ (Kim et al., ICLR 2025), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor


def low_pass(image: Tensor, cutoff: float) -> Tensor:
    """Pixels [N, C, H, W] with frequencies f, in cycles per pixel, damped by exp(-f^2 / (2 cutoff^2))."""
    height, width = image.shape[2:]
    rows = torch.fft.fftfreq(height, device=image.device)[:, None]
    columns = torch.fft.rfftfreq(width, device=image.device)
    damping = torch.exp(-(rows**2 + columns**2) / (2 * cutoff**2))
    return torch.fft.irfft2(torch.fft.rfft2(image) * damping, (height, width)).clamp(0, 1)  # rounding goes beyond
