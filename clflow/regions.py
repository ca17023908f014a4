"""Regions of a score map: connected pixels above a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_NEIGHBOURS = np.ones((3, 3), bool)  # pixels that touch at a corner are connected


@dataclass(frozen=True)
class Region:
    """Connected anomalous pixels, in pixels of the image.

    Attributes:
        x, y: left upper corner of the bounding box.
        width, height: of the bounding box.
        area: of the region, rounded.
        peak: highest score.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


def find_regions(score_map: NDArray[np.float32], threshold: float, size: tuple[int, int]) -> list[Region]:
    """Regions of a score map that are above a threshold, the highest peak first.

    Args:
        score_map: (H, W), of the whole image, at whatever resolution.
        threshold: of its scores.
        size: width and height of the image.
    """
    across, down = size[0] / score_map.shape[1], size[1] / score_map.shape[0]
    labels = np.zeros(score_map.shape, np.int32)
    ndimage.label(score_map > threshold, _NEIGHBOURS, labels)
    regions = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == label
        x, y = math.floor(columns.start * across), math.floor(rows.start * down)
        regions.append(
            Region(
                x=x,
                y=y,
                width=math.ceil(columns.stop * across) - x,
                height=math.ceil(rows.stop * down) - y,
                area=max(1, round(inside.sum() * across * down)),
                peak=float(score_map[rows, columns][inside].max()),
            )
        )
    return sorted(regions, key=lambda region: -region.peak)
