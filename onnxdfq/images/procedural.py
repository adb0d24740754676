"""Draws images that have the statistics of photographs without being photographs.

Calibration asks of an image that it moves every channel about as far as a photograph would, so what matters
is what photographs have in common: a spectrum that falls as 1/f, objects of all sizes hiding one another
(dead leaves), smooth shading and sharp edges side by side, correlated colours, and a wide spread of
brightness and contrast. Four kinds of drawing cover these in turn.

A drawing is an array [channels, height, width] in free units; `_expose` turns it into 8-bit pixel values.
"""

from collections.abc import Callable
from math import ceil, log, pi, tau
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, int, int]
Rng: TypeAlias = np.random.Generator

SMALLEST_LEAF = 2.0  # pixels; below it the law r^-3 would spend all leaves on single pixels
LEAF_COVER = 4.0  # summed area of all leaves over the area of the image: almost nothing is left bare
ROUND = 64  # a polygon of that many corners passes for an ellipse


def procedural(count: int, channels: int, height: int, width: int, rng: Rng) -> NDArray[np.float32]:
    """Images [count, channels, height, width] of whole pixel values 0..255, the kinds taking turns."""
    if count < 0 or min(channels, height, width) < 1:
        raise ValueError(f"cannot draw {count} images of shape {(channels, height, width)}")
    images = np.empty((count, channels, height, width), np.float32)
    for index in range(count):
        draw = KINDS[index % len(KINDS)]
        drawing = draw((channels, height, width), rng)
        images[index] = _expose(_soften(drawing, int(rng.integers(2))), rng)  # not every lens draws single pixels
    return images


# The four kinds


def one_over_f(shape: Shape, rng: Rng) -> Array:
    """Clouds, foliage, gravel: random phases under the spectrum of photographs, in colour."""
    channels, height, width = shape
    fields = _pink(channels + 1, height, width, rng)
    return _tint(fields[:1], fields[1:], rng.uniform(0.7, 0.95))


def dead_leaves(shape: Shape, rng: Rng) -> Array:
    """Opaque textured leaves of all sizes, hiding one another as objects in a scene do."""
    channels, height, width = shape
    top, leaves = _leaf_map(height, width, rng)
    texture = _pink(1, height, width, rng)[0]
    # Every leaf looks at another part of the texture, so that texture too breaks at its edge.
    rows = (np.arange(height)[:, None] + rng.integers(height, size=leaves)[top]) % height
    columns = (np.arange(width) + rng.integers(width, size=leaves)[top]) % width
    strength = rng.uniform(0, 0.7, leaves).astype(np.float32)
    drawing = _colours((leaves,), channels, rng)[:, top] + strength[top] * texture[rows, columns]
    return _soften(drawing, int(rng.integers(2)))


def gradients(shape: Shape, rng: Rng) -> Array:
    """A smooth ground of several colours under a few large shapes, plain, shaded, striped or checked."""
    drawing = _shading(shape, rng)
    for _ in range(rng.integers(2, 7)):
        fill = rng.choice(4)
        body = _shading(shape, rng) if fill < 2 else _bands(shape, checked=fill == 3, rng=rng)
        drawing += _large_shape(shape, rng) * (body - drawing)
    return drawing


def figure_on_ground(shape: Shape, rng: Rng) -> Array:
    """One large object in the middle, lit from one side, before a ground that is often out of focus."""
    channels, height, width = shape
    ground = _soften(one_over_f(shape, rng), int(rng.integers(6)))
    texture = (one_over_f, dead_leaves, gradients)[rng.integers(3)](shape, rng)
    light = _shading((1, height, width), rng)
    body = _colours((1, 1), channels, rng) + np.float32(rng.uniform(0.3, 0.9)) * texture + 0.7 * light
    return ground + _outline(height, width, rng) * (body - ground)


KINDS: tuple[Callable[[Shape, Rng], Array], ...] = (one_over_f, dead_leaves, gradients, figure_on_ground)


# What they are made of


def _pink(count: int, height: int, width: int, rng: Rng) -> Array:
    """Fields [count, height, width] of zero mean and unit deviation whose amplitude falls as |f|^-beta."""
    # Cut out of a field a quarter larger: a Fourier sum is periodic, and opposite borders would match.
    rows, columns = 4 * ceil(height * 5 / 16), 4 * ceil(width * 5 / 16)
    stretch = rng.uniform(0.7, 1.4)
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None] * stretch, np.fft.rfftfreq(columns) / stretch)
    frequency[0, 0] = np.inf
    amplitude = (frequency ** -rng.uniform(0.8, 1.6)).astype(np.float32)
    parts = rng.standard_normal((2, count, *amplitude.shape), np.float32)
    fields = np.fft.irfft2(amplitude * (parts[0] + 1j * parts[1]), (rows, columns))[:, :height, :width]
    fields -= fields.mean((1, 2), keepdims=True)
    return (fields / (fields.std((1, 2), keepdims=True) + 1e-12)).astype(np.float32)


def _colours(size: tuple[int, ...], channels: int, rng: Rng) -> Array:
    """Colours [channels, *size] of one palette: somewhere between almost grey and vivid."""
    grey, hue = rng.standard_normal(size, np.float32), rng.standard_normal((channels, *size), np.float32)
    return _tint(grey, hue, rng.uniform(0.5, 0.97))


def _tint(grey: Array, hue: Array, shared: float) -> Array:
    """Mixes what all channels have in common with what each has alone; `shared` is their correlation."""
    return np.float32(shared**0.5) * grey + np.float32((1 - shared) ** 0.5) * hue


def _shading(shape: Shape, rng: Rng) -> Array:
    """A few random colours on a coarse grid, smoothly blended."""
    channels, height, width = shape
    grid = _colours((int(rng.integers(2, 5)), int(rng.integers(2, 5))), channels, rng)
    return _blend(height, grid.shape[1]) @ grid @ _blend(width, grid.shape[2]).T


def _blend(length: int, knots: int) -> Array:
    """[length, knots]: the weight of every knot at every pixel, smooth, with sum one."""
    distance = np.abs(np.linspace(0, knots - 1, length)[:, None] - np.arange(knots))
    weight = 0.5 + 0.5 * np.cos(pi * np.minimum(distance, 1))
    return weight.astype(np.float32)


def _bands(shape: Shape, checked: bool, rng: Rng) -> Array:
    """Stripes or a checker board between two colours, with sharp or smooth transitions."""
    channels, height, width = shape
    y, x = _grid(height, width)
    angle, period = rng.uniform(0, tau), max(height, width) * rng.uniform(0.03, 0.3)
    wave = np.sin(tau / period * (np.cos(angle) * x + np.sin(angle) * y))
    if checked:
        wave *= np.sin(tau / period * (np.cos(angle) * y - np.sin(angle) * x))
    wave = np.clip(wave * rng.choice([1.0, 3.0, 20.0]), -1, 1)
    middle, swing = _colours((2, 1, 1), channels, rng).swapaxes(0, 1)
    return (middle + swing * wave).astype(np.float32)


def _large_shape(shape: Shape, rng: Rng) -> Array:
    """Opacity [height, width] of one polygon or ellipse, its edge anything from crisp to far out of focus."""
    _, height, width = shape
    y, x = _grid(height, width)
    y, x = y - height * rng.uniform(-0.6, 0.6), x - width * rng.uniform(-0.6, 0.6)
    radius = max(height, width) * rng.uniform(0.15, 0.6)
    reach = _reach(y, x, radius, *_forms(1, rng))
    edge = np.exp(rng.uniform(0, log(1 + min(height, width) / 5)))
    return np.clip((1 - reach) * radius / edge + 0.5, 0, 1).astype(np.float32)


def _outline(height: int, width: int, rng: Rng) -> Array:
    """Opacity [height, width] of a lobed blob near the middle."""
    y, x = _grid(height, width)
    size = min(height, width) * rng.uniform(0.28, 0.42)
    y, x = y - height * rng.uniform(-0.1, 0.1), (x - width * rng.uniform(-0.1, 0.1)) / rng.uniform(0.7, 1.4)
    direction, edge = np.arctan2(y, x), size * np.ones_like(y * x)
    for lobes in range(2, rng.integers(4, 9)):
        edge += size * rng.normal(0, 0.25 / lobes) * np.cos(lobes * direction + rng.uniform(0, tau))
    return np.clip((edge - np.hypot(y, x)) / rng.uniform(1, 4) + 0.5, 0, 1).astype(np.float32)


def _leaf_map(height: int, width: int, rng: Rng) -> tuple[NDArray[np.int32], int]:
    """Which leaf lies on top at every pixel (0: the bare ground), and how many there are with the ground."""
    largest = max(min(height, width) / 2, SMALLEST_LEAF + 1)
    mean_area = 2 * pi * SMALLEST_LEAF**2 * log(largest / SMALLEST_LEAF)  # of discs under the law r^-3
    count = ceil(LEAF_COVER * height * width / mean_area)
    share = rng.uniform(0, 1 - (SMALLEST_LEAF / largest) ** 2, count)
    radius = (SMALLEST_LEAF / np.sqrt(1 - share)).astype(np.float32)
    y, x = rng.uniform(0, height, count).astype(np.float32), rng.uniform(0, width, count).astype(np.float32)
    corners, angle, aspect = _forms(count, rng)

    # Leaves of like size share a window size and are drawn at once; the higher number lies on top.
    top = np.zeros((height, width), np.int32)
    window = np.ceil(SMALLEST_LEAF * 2 ** (np.ceil(2 * np.log2(radius / SMALLEST_LEAF)) / 2)).astype(int)
    for half in np.unique(window):
        leaf = np.flatnonzero(window == half)[:, None, None]
        step = np.arange(-half, half + 1)
        rows, columns = y[leaf].astype(int) + step[:, None], x[leaf].astype(int) + step
        dy, dx = step[:, None].astype(np.float32) - y[leaf] % 1, step.astype(np.float32) - x[leaf] % 1
        reach = _reach(dy, dx, radius[leaf], corners[leaf], angle[leaf], aspect[leaf])
        seen = (reach <= 1) & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        pixel, number = rows * width + columns, np.broadcast_to(leaf + 1, seen.shape)
        np.maximum.at(top.reshape(-1), pixel[seen], number[seen].astype(np.int32))
    return top, count + 1


def _forms(count: int, rng: Rng) -> tuple[Array, Array, Array]:
    """Corners, direction and aspect of random discs, ellipses and polygons."""
    corners = rng.choice([3, 4, 4, 5, 6, ROUND, ROUND, ROUND], count)
    angle, aspect = rng.uniform(0, tau, count), np.minimum(rng.uniform(0.35, 1.3, count), 1)
    return corners.astype(np.float32), angle.astype(np.float32), aspect.astype(np.float32)


def _reach(dy: Array, dx: Array, radius: Array | float, corners: Array, angle: Array, aspect: Array) -> Array:
    """How far out a point lies in a form: 0 in its middle, 1 on its edge."""
    along = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    across = (np.cos(angle) * dy - np.sin(angle) * dx) / (radius * aspect)
    wedge = np.float32(tau) / corners
    turn = np.arctan2(across, along) % wedge - wedge / 2
    reach: Array = np.hypot(along, across) * np.cos(turn) / np.cos(wedge / 2)
    return reach


def _grid(height: int, width: int) -> tuple[Array, Array]:
    """Pixel coordinates [height, 1] and [1, width], zero in the middle."""
    y, x = np.ogrid[:height, :width]
    return (y - (height - 1) / 2).astype(np.float32), (x - (width - 1) / 2).astype(np.float32)


def _soften(drawing: Array, times: int) -> Array:
    """Blurs a little, as a lens does: each time averages neighbours 1:2:1 both ways."""
    for _ in range(times):
        padded = np.pad(drawing, ((0, 0), (1, 1), (1, 1)), mode="edge")
        padded = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
        drawing = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) * np.float32(1 / 16)
    return drawing


def _expose(drawing: Array, rng: Rng) -> Array:
    """Pixel values of a drawing, with a brightness, contrast, tone curve and colour cast of its own."""
    tone = np.float32(rng.uniform(-0.5, 0.5))  # skews the histogram towards lights or shadows
    toned = _standard(np.expm1(tone * _standard(drawing)) / tone)
    cast = rng.normal([[1], [0]], [[0.1], [0.2]], (2, len(drawing))).astype(np.float32)[..., None, None]
    toned = cast[0] * toned + cast[1]
    # Means and deviations as photographs have them, a little widened for what clipping takes away.
    brightness, contrast = np.clip(rng.normal([107, 67], [36, 22]), [20, 10], [220, 120]).astype(np.float32)
    return np.rint(np.clip(brightness + contrast * toned, 0, 255))


def _standard(drawing: Array) -> Array:
    return (drawing - drawing.mean()) / (drawing.std() + np.float32(1e-6))
