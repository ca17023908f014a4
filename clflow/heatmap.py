"""Heat maps: a score map in colour over its image, on the same scale in galleries, predictions and answers."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_THRESHOLD = (20, 20, 20)

LEGEND = (
    "Heat map: dark line at the pixel threshold; yellow begins halfway to it from the median pixel, "
    "red is reached at twice that distance."
)

Picture = NDArray[np.uint8]
"""RGB, (H, W, 3)."""


def overlay(image: Picture, score_map: NDArray[np.float32], median: float, pixel_threshold: float) -> Picture:
    """Colour over the grey image, with a line around all above the threshold.

    Args:
        image: RGB, (H, W, 3).
        score_map: scores of its pixels, (H, W).
        median: the score of level 0; level 0.5 is clear.
        pixel_threshold: the score of level 1, which is yellow; level 2 is red.
    """
    level = (score_map - median) / max(pixel_threshold - median, np.finfo(np.float32).eps)
    share = np.clip((level - 0.5) / 1.5, 0, 1)
    colour = matplotlib.colormaps["YlOrRd"](share)[..., :3] * 255
    opacity = 0.85 * np.clip(2 * level - 1, 0, 1)[..., None]
    grey = image.mean(axis=2, keepdims=True)
    blended = np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint8)
    return outline(blended, level > 1, _THRESHOLD, width=1)


def outline(picture: Picture, region: NDArray[np.bool_], colour: tuple[int, int, int], width: int) -> Picture:
    """Draw a line around a region (H, W) into the picture, and return it."""
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, width)
    return picture


def restore_aspect(picture: Picture, width: int, height: int) -> Image.Image:
    """Resize a square picture to the aspect ratio of its image; the longer side keeps its length."""
    scale = len(picture) / max(width, height)
    return Image.fromarray(picture).resize((max(1, round(width * scale)), max(1, round(height * scale))))
