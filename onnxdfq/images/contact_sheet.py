"""Many images on one sheet, for a person to look at."""

from __future__ import annotations

import io
from bisect import bisect_right
from math import ceil, sqrt

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST = 64  # images on a sheet
LARGEST = 128  # pixels of a cell's longer side
NARROWEST = 96  # a cell that captions are written under
GAP, MARGIN = 6, 16
TITLE, CAPTION = 15, 12  # sizes of letters
SHOWN, SMALLEST_SHARE = 2, 0.05  # classes in a caption, where an image belongs to several
TITLE_WIDTH = 640  # that a title may take even where the images need less
PAPER, INK, SOFT_INK = "#f0f0f0", "#202020", "#505050"  # all grey: no colour that images would be compared with


def contact_sheet(pixels: np.ndarray, labels: np.ndarray | None, title: str) -> bytes:
    """A PNG file with the first 64 images in a grid. Equal input gives equal bytes.

    pixels: RGB or grey [N, C, H, W], N at least 1, values 0..255. Small images are enlarged by whole factors without
    smoothing, so that single pixels can be seen; large ones are shrunk. labels: classes [N] or shares of classes
    [N, K], written under the images. title: one line on top; what is too long for the sheet is cut.
    """
    pictures = [_sized(image) for image in pixels[:MOST]]
    lines = [_caption(label) for label in labels[:MOST]] if labels is not None else []
    width, height = pictures[0].size
    cell = max(width, NARROWEST) if lines else width
    title_font, font = _font(TITLE), _font(CAPTION)
    line = _height(font)
    below = max(len(each) for each in lines) * line + GAP if lines else 0  # what captions take under an image

    columns = ceil(sqrt(len(pictures)))
    rows = ceil(len(pictures) / columns)
    grid = columns * (cell + GAP) - GAP
    title = _cut(title, title_font, max(grid, TITLE_WIDTH))
    top = MARGIN + _height(title_font) + MARGIN // 2
    size = (
        max(grid, ceil(title_font.getlength(title))) + 2 * MARGIN,
        top + rows * (height + below + GAP) - GAP + MARGIN,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, title_font)
    for number, picture in enumerate(pictures):
        left = MARGIN + number % columns * (cell + GAP)
        upper = top + number // columns * (height + below + GAP)
        sheet.paste(picture, (left + (cell - width) // 2, upper))
        for place, text in enumerate(lines[number] if lines else ()):
            middle = (left + cell // 2, upper + height + 2 + place * line)
            draw.text(middle, _cut(text, font, cell), SOFT_INK, font, anchor="ma")
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _sized(image: np.ndarray) -> Image.Image:
    """A picture of [C, H, W] that fills a cell as well as whole factors allow."""
    pixels = image.astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)) if len(pixels) == 3 else pixels[0])
    longer = max(picture.size)
    if longer > LARGEST:
        size = [max(1, round(side * LARGEST / longer)) for side in picture.size]
        return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    factor = LARGEST // longer
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _caption(label: np.ndarray) -> list[str]:
    """Lines for a class, or for the largest shares [K]."""
    if label.ndim == 0:
        return [str(label)]
    first = np.argsort(-label, kind="stable")[:SHOWN]
    return [f"{each}: {label[each]:.0%}" for each in first if label[each] >= SMALLEST_SHARE]


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # the only other one is that of a Pillow without FreeType
    return font


def _height(font: ImageFont.FreeTypeFont) -> int:
    return sum(font.getmetrics())


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of its beginning as fits. Spaces are doubled: those of Pillow's font are very narrow."""
    text = text.replace(" ", "  ")
    if font.getlength(text) <= width:
        return text
    kept = bisect_right(range(len(text)), width, key=lambda count: font.getlength(text[:count] + "..."))
    return text[: max(kept - 1, 0)].rstrip() + "..."
