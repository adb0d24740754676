"""Numbers over iterations, as a picture: a panel for each kind, curves in it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import ceil

from PIL import Image, ImageDraw, ImageFont

Curve = Sequence[tuple[float, float]]  # (iteration, number), by iteration
WIDTH, HEIGHT = 720, 200  # of a panel
LEFT, MARGIN, LINE = 72, 16, 16
PAPER, INK, SOFT_INK, FRAME = "#ffffff", "#202020", "#606060", "#d0d0d0"
COLOURS = ("#3060a0", "#c05020", "#208050", "#8040a0", "#a08020")


def curves(panels: Mapping[str, Mapping[str, Curve]], title: str) -> bytes:
    """A PNG file. panels: title -> name -> curve. Equal input gives equal bytes."""
    high = HEIGHT + 3 * LINE
    picture = Image.new("RGB", (LEFT + WIDTH + 2 * MARGIN, 2 * MARGIN + LINE + max(len(panels), 1) * high), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    draw.text((MARGIN, MARGIN), title if panels else f"{title}: nothing was written yet", INK, font)
    for number, (about, found) in enumerate(panels.items()):
        top = MARGIN + 2 * LINE + number * high
        _panel(draw, font, (LEFT, top), found)
        draw.text((LEFT + WIDTH // 2, top + LINE + HEIGHT + 2), about, SOFT_INK, font, anchor="ma")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _panel(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, corner: tuple[int, int],
    found: Mapping[str, Curve],
) -> None:  # fmt: skip
    left, top = corner
    points = [point for curve in found.values() for point in curve]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    wide, tall = max(last - first, 1e-12), max(high - low, 1e-12)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return left + (x - first) / wide * WIDTH, top + LINE + (high - y) / tall * HEIGHT

    draw.rectangle((left, top + LINE, left + WIDTH, top + LINE + HEIGHT), outline=FRAME)
    for y in (low, high):
        draw.text((left - 6, place((first, y))[1]), f"{y:.4g}", SOFT_INK, font, anchor="rm")
    for x, anchor in ((first, "la"), (last, "ra")):
        draw.text((place((x, low))[0], top + LINE + HEIGHT + 2), f"{x:g}", SOFT_INK, font, anchor=anchor)
    across = left
    for number, (label, curve) in enumerate(found.items()):
        colour = COLOURS[number % len(COLOURS)]
        draw.text((across, top - 2), label, colour, font)
        across += ceil(font.getlength(label)) + MARGIN
        line = [place(point) for point in curve]
        if len(line) > 1:
            draw.line(line, colour, 2)
        else:
            draw.ellipse((line[0][0] - 2, line[0][1] - 2, line[0][0] + 2, line[0][1] + 2), fill=colour)
