"""Images as weighted Fourier coefficients: what an optimizer changes then looks like what photographs are made of.

    z = inverse FFT of (scale * M c)      scale = 1 / f, as large as the amplitudes of photographs at frequency f
                                          M M' = correlation of the colours of photographs

Adam takes steps of one size in every variable. In pixels that is white noise in all colours, which edge filters answer
to more than to any photograph; in coefficients c it is noise with the spectrum and the colours of photographs. Cf.
Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017, "Preconditioning and Parameterization".
"""

from __future__ import annotations

import torch
from torch import Tensor

CHANNEL_CORRELATION = 0.9  # of the colours of photographs


class Spectrum:
    """The change of variables for images [N, channels, height, width]."""

    def __init__(self, channels: int, height: int, width: int, device: torch.device) -> None:
        self._size = (height, width)
        rows = torch.fft.fftfreq(height, device=device)[:, None]
        columns = torch.fft.rfftfreq(width, device=device)
        scale = 1 / torch.sqrt(rows**2 + columns**2).clamp_min(1 / max(height, width))
        self._scale = scale / scale.square().mean().sqrt()
        # The root of (1 - r) I + r 11': it stretches what all channels share and shrinks their differences.
        self._shared = (1.0 + (channels - 1) * CHANNEL_CORRELATION) ** 0.5
        self._own = (1.0 - CHANNEL_CORRELATION) ** 0.5

    def coefficients(self, z: Tensor) -> Tensor:
        """Real and imaginary parts [N, C, height, width // 2 + 1, 2] that ``image`` makes z of."""
        mean = z.mean(1, keepdim=True)
        z = mean / self._shared + (z - mean) / self._own
        return torch.view_as_real(torch.fft.rfft2(z, norm="ortho") / self._scale).contiguous()

    def image(self, coefficients: Tensor) -> Tensor:
        """The inverse: [N, C, height, width]."""
        spectrum = torch.view_as_complex(coefficients) * self._scale
        c = torch.fft.irfft2(spectrum, self._size, norm="ortho")
        mean = c.mean(1, keepdim=True)
        return self._shared * mean + self._own * (c - mean)
