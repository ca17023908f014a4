"""The curve that AUPRO is the area under, for drawing.

It reads what `clflow.metrics` counts but stands apart: the code of that module is part of the key of every trained
cell, and how a curve is drawn determines no cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clflow.metrics import PixelCounts


def pro_curve(counts: PixelCounts, limit: float, points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The per-region overlap, averaged over regions, at false positive rates up to a limit.

    Args:
        counts: with at least one defective and one normal pixel.
        limit: the highest rate.
        points: how many rates, closer to each other towards zero, where curves are steep.

    Returns:
        rates and overlaps, each (points,).
    """
    alarms, overlap = counts.false_positives(), counts.overlap()
    rates = limit * np.linspace(0, 1, points) ** 2
    return rates, np.interp(rates, alarms / alarms[-1], overlap / overlap[-1])
