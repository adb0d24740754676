"""Padding arithmetic shared by convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Pads = list[tuple[int, int]]


@dataclass(frozen=True)
class Window:
    """A window sliding over the spatial axes: one entry per axis, padding resolved to (begin, end)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How many input elements the window spans on each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether torch can pad by itself: as much before as after, and nothing cropped."""
        return all(begin == end >= 0 for begin, end in self.pads)

    @property
    def before(self) -> tuple[int, ...]:
        """The padding before each axis."""
        return tuple(begin for begin, _ in self.pads)


def window(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> Window:
    """Resolve the ONNX attributes of a convolution or pooling over an input of spatial ``size``."""
    rank = len(kernel)
    strides = tuple(strides or [1] * rank)
    dilations = tuple(dilations or [1] * rank)
    resolved: list[tuple[int, int]] = []
    if auto_pad.startswith("SAME"):
        for length, k, step, d in zip(size, kernel, strides, dilations, strict=True):
            total = max((-(-length // step) - 1) * step + (k - 1) * d + 1 - length, 0)
            small, large = total // 2, total - total // 2
            resolved.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
    elif auto_pad == "VALID" or pads is None:
        resolved = [(0, 0)] * rank
    else:
        resolved = list(zip(pads[:rank], pads[rank:], strict=True))
    return Window(tuple(kernel), strides, dilations, tuple(resolved))


def torch_order(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Per-axis (begin, end) pairs in the order of torch.nn.functional.pad: last axis first."""
    return [amount for pair in reversed(pads) for amount in pair]
