"""A contact sheet, so that a person can judge the synthetic anomalies of a category at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from clflow.synthesis.recipe import Synthetic

_TILE = 120
_CAPTION = 16
_BESIDE = 2  # examples side by side
_COLOURS = 128  # of the palette: keeps the sheet of 16 examples below a megabyte
_RED = (255, 0, 0)


def contact_sheet(examples: Sequence[tuple[np.ndarray, Synthetic]]) -> Image.Image:
    """Palette image of the examples, each an original, uint8 (H, W, 3), and what was made of it.

    An example shows the synthetic image with its box, then, magnified around the box: original, synthetic,
    outline of the mask; the caption names shape, source, blending and opacity.
    """
    rows = -(-len(examples) // _BESIDE)
    sheet = Image.new("RGB", (4 * _TILE * _BESIDE, rows * (_TILE + _CAPTION)), "white")
    write = ImageDraw.Draw(sheet)
    for number, (original, synthetic) in enumerate(examples):
        left = number % _BESIDE * 4 * _TILE
        top = number // _BESIDE * (_TILE + _CAPTION)
        for place, tile in enumerate(_tiles(original, synthetic)):
            sheet.paste(tile, (left + place * _TILE, top))
        how = f"{synthetic.shape} / {synthetic.source} / {synthetic.blending} / {synthetic.opacity:.2f}"
        write.text((left + 3, top + _TILE + 2), how, fill="black")
    return sheet.quantize(_COLOURS, dither=Image.Dither.NONE)


def _tiles(original: np.ndarray, synthetic: Synthetic) -> list[Image.Image]:
    boxed = synthetic.image.copy()
    x0, y0, x1, y1 = synthetic.box
    cv2.rectangle(boxed, (x0 - 2, y0 - 2), (x1 + 1, y1 + 1), _RED, max(len(boxed) // _TILE, 1))
    window = _window(synthetic.box, *synthetic.mask.shape)
    before, after, mask = (picture[window] for picture in (original, synthetic.image, synthetic.mask))
    contours, _ = cv2.findContours(
        cv2.resize(mask.astype(np.uint8), (_TILE, _TILE), interpolation=cv2.INTER_NEAREST),
        cv2.RETR_LIST,
        cv2.CHAIN_APPROX_NONE,
    )
    outlined = np.array(_tile(after))
    cv2.drawContours(outlined, contours, -1, _RED, 1)
    return [_tile(boxed), _tile(before), _tile(after), Image.fromarray(outlined)]


def _window(box: tuple[int, int, int, int], height: int, width: int) -> tuple[slice, slice]:
    """A square around the box with room on all sides, moved into the image."""
    x0, y0, x1, y1 = box
    side = min(max(2 * max(x1 - x0, y1 - y0), min(height, width) // 4), height, width)
    left = min(max((x0 + x1 - side) // 2, 0), width - side)
    top = min(max((y0 + y1 - side) // 2, 0), height - side)
    return slice(top, top + side), slice(left, left + side)


def _tile(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
