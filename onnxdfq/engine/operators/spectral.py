"""Fourier transforms, and the windows that are applied before them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import Ints, ints, torch_dtype


@operator("DFT", since=17, host=("dft_length",))
def dft_by_attribute(
    x: Tensor, dft_length: Ints | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Tensor:
    return dft(x, dft_length, axis, inverse=inverse, onesided=onesided)


@operator("DFT", since=20, host=("dft_length", "axis"))
def dft(x: Tensor, dft_length: Ints | None = None, axis: Ints = -2, *, inverse: int = 0, onesided: int = 0) -> Tensor:
    """x [..., 1] of real or [..., 2] of complex numbers -> [..., 2], or [..., 1] of the inverse if onesided."""
    # An axis that counts from the end counts the parts of the numbers too.
    dim = ints(axis)[0] % x.ndim
    length = None if dft_length is None else ints(dft_length)[0]
    values = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    if inverse and onesided:
        return torch.fft.irfft(values, length, dim)[..., None]
    transform = torch.fft.ifft if inverse else torch.fft.rfft if onesided else torch.fft.fft
    return torch.view_as_real(transform(values, length, dim).resolve_conj())


@operator("STFT", since=17, host=("frame_step", "frame_length"), frozen=("window",))
def stft(
    signal: Tensor,
    frame_step: Ints,
    window: Tensor | None = None,
    frame_length: Ints | None = None,
    *,
    onesided: int = 1,
) -> Tensor:
    """signal [N, length, 1 or 2] -> [N, frames, frequencies, 2]; a onesided transform is of real signals only."""
    length = signal.shape[1] if window is None else len(window)
    if frame_length is not None:
        (length,) = ints(frame_length)
    frames = signal.unfold(1, length, ints(frame_step)[0])
    frames = frames if window is None else frames * window
    return dft(frames.movedim(-2, -1), onesided=onesided)


@operator("HannWindow", since=17, host=("size",))
def hann_window(size: Ints, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    return _cosines(size, [0.5, -0.5], periodic, output_datatype)


@operator("HammingWindow", since=17, host=("size",))
def hamming_window(size: Ints, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    return _cosines(size, [25 / 46, -21 / 46], periodic, output_datatype)


@operator("BlackmanWindow", since=17, host=("size",))
def blackman_window(size: Ints, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    return _cosines(size, [0.42, -0.5, 0.08], periodic, output_datatype)


def _cosines(size: Ints, amplitudes: list[float], periodic: int, element_type: int) -> Tensor:
    """A sum of cosines of 0, 1, 2 ... periods over the window."""
    (length,) = ints(size)
    device = size.device if isinstance(size, Tensor) else None
    angle = torch.arange(length, dtype=torch.float64, device=device) * (
        2 * math.pi / (length if periodic else length - 1)
    )
    terms = [amplitude * torch.cos(periods * angle) for periods, amplitude in enumerate(amplitudes)]
    return torch.stack(terms).sum(0).to(torch_dtype(element_type))
