"""A Gaussian low-pass in Fourier space: photographs hold little in high frequencies, gradients put much there.

    x -> FFT -> times sum over whole k of exp(-(f + k)^2 / (2 cutoff^2)), 1 at f = 0 -> inverse FFT

That sum is the spectrum of a sampled Gaussian: a kernel that is positive and adds up to one, so that pixels stay
between the darkest and the brightest. Its part k = 0 alone, cut off at f = 1/2, would ring beyond them.
SynQ (Kim et al., ICLR 2025), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

COPIES = 4  # on each side; those further off are nothing for any cutoff of use


def low_pass(image: Tensor, cutoff: float) -> Tensor:
    """Pixels 0..1 [N, C, H, W] without the frequencies that lie above ``cutoff``, in cycles per pixel."""
    height, width = image.shape[2:]
    rows = _damping(torch.fft.fftfreq(height, device=image.device), cutoff)
    columns = _damping(torch.fft.rfftfreq(width, device=image.device), cutoff)
    filtered = torch.fft.irfft2(torch.fft.rfft2(image) * rows[:, None] * columns, (height, width))
    return filtered.clamp(0, 1)  # rounding goes beyond


def _damping(frequencies: Tensor, cutoff: float) -> Tensor:
    copies = frequencies[:, None] + torch.arange(-COPIES, COPIES + 1, device=frequencies.device)
    spectrum = torch.exp(-(copies**2) / (2 * cutoff**2)).sum(1)
    return spectrum / spectrum[0]
