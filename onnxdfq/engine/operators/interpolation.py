"""Interpolation along an axis: which elements a fractional position reads, and with which weights."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

Taps = tuple[Tensor, Tensor]  # positions and weights, [K, *where.shape] each


def linear_taps(where: Tensor) -> Taps:
    """The two neighbours of each position."""
    low = torch.floor(where)
    share = where - low
    return torch.stack([low, low + 1]), torch.stack([1 - share, share])


def cubic_taps(where: Tensor, a: float) -> Taps:
    """The four neighbours of each position, weighted by cubic convolution with coefficient ``a``."""
    low = torch.floor(where)
    share = where - low
    weights = [_far(1 + share, a), _near(share, a), _near(1 - share, a), _far(2 - share, a)]
    return torch.stack([low - 1, low, low + 1, low + 2]), torch.stack(weights)


def stretched_taps(where: Tensor, stretch: float, a: float | None) -> Taps:
    """As linear_taps, or as cubic_taps where ``a`` is given, with the kernel stretched so that it averages over
    ``stretch`` times as many elements."""
    reach = math.ceil(stretch * (1 if a is None else 2))
    steps = torch.arange(1 - reach, 1 + reach, device=where.device)
    positions = torch.floor(where) + steps.reshape(-1, *(1,) * where.ndim)
    distance = (where - positions).abs() / stretch
    if a is None:
        weights = (1 - distance).clamp(min=0)
    else:
        weights = torch.where(distance <= 1, _near(distance, a), _far(distance.clamp(max=2), a))
    return positions, weights / weights.sum(0)


def sample(x: Tensor, taps: list[Taps]) -> Tensor:
    """x [N, C, *size] read at P places for each n: one pair of taps [K, N, P] for each axis -> [N, C, P].

    All positions must be inside of x.
    """
    values, size = x.flatten(2), x.shape[2:]
    total = x.new_zeros(())
    for chosen in product(*(zip(*axis, strict=True) for axis in taps)):
        index = torch.zeros((), dtype=torch.int64, device=x.device)
        weight = x.new_ones(())
        for length, (position, share) in zip(size, chosen, strict=True):
            index, weight = index * length + position.long(), weight * share
        total = total + values.gather(2, index[:, None].expand(-1, x.shape[1], -1)) * weight[:, None]
    return total


def _near(distance: Tensor, a: float) -> Tensor:
    """The weight of an element at a distance up to 1."""
    return ((a + 2) * distance - (a + 3)) * distance**2 + 1


def _far(distance: Tensor, a: float) -> Tensor:
    """The weight of an element at a distance from 1 to 2."""
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
