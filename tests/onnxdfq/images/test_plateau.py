"""When the loss counts as flat."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count, islice

import numpy as np

from onnxdfq.images.plateau import GAIN, PATIENCE, WINDOW, Plateau


def stops(losses: Iterable[float]) -> int | None:
    """After how many steps; None if never."""
    plateau = Plateau()
    return next((step for step, loss in enumerate(losses, 1) if plateau.flat(loss)), None)


def test_a_constant_loss_is_flat_after_the_first_window_and_those_of_patience() -> None:
    assert stops([1.0] * 1000) == WINDOW * (1 + PATIENCE)


def test_a_falling_loss_is_never_flat() -> None:
    assert stops(0.99**step for step in range(2000)) is None


def test_a_loss_that_falls_too_little_is_flat() -> None:
    slow = (1 - 0.1 * GAIN) ** (1 / WINDOW)
    assert stops(slow**step for step in range(1000)) is not None


def test_it_stops_once_the_loss_stays() -> None:
    falling = [0.9**step for step in range(50)]
    stopped = stops([*falling, *[falling[-1]] * 1000])
    assert stopped is not None
    assert 50 < stopped <= 50 + WINDOW * (2 + PATIENCE)


def test_noise_between_steps_is_averaged() -> None:
    rng = np.random.default_rng(0)
    noisy = (0.99**step * rng.uniform(0.8, 1.2) for step in range(400))
    assert stops(noisy) is None


def test_ups_and_downs_are_no_gain() -> None:
    assert stops(([1.0] * WINDOW + [0.5] * WINDOW) * 20) is not None


def test_a_loss_that_rises_or_is_no_number_ends() -> None:
    assert stops(islice(count(1.0, 0.1), 100)) == WINDOW * (1 + PATIENCE)
    assert stops([float("nan")] * 100) == WINDOW * PATIENCE


def test_a_perfect_loss_ends() -> None:
    assert stops([0.0] * 100) is not None
