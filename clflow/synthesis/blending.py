"""Blending a picture into an image, and the pixels that it changes."""

from __future__ import annotations

import cv2
import numpy as np

VISIBLE = 6.0
"""Smoothed difference, in grey levels of 255 and in the most changed channel, from which a pixel is anomalous."""

CLEAR = 16.0
"""Unsmoothed difference from which a pixel is anomalous whatever its neighbours are."""

_SMOOTHING = 1.0  # pixels, standard deviation
_SPECK = 6  # pixels; smaller pieces of a mask are noise
_EROSION = 3  # pixels by which seamlessClone shrinks its mask
_MARGIN = 6  # pixels around a cut; seamlessClone cannot work at the image's edge


def alpha(image: np.ndarray, picture: np.ndarray, coverage: np.ndarray, opacity: float) -> np.ndarray:
    """Mix ``picture`` over ``image`` (both uint8 (H, W, 3)) by ``coverage`` (float32 (H, W)) times ``opacity``."""
    share = (coverage * opacity)[..., None]
    return np.rint(image * (1 - share) + picture * share).astype(np.uint8)


def feather(coverage: np.ndarray, sigma: float, foreground: np.ndarray) -> np.ndarray:
    """Soften the edge of a shape without leaving the foreground, bool (H, W), and without fading its inside."""
    soft = cv2.GaussianBlur(coverage, (0, 0), sigma)
    peak = float(soft.max())
    return np.where(foreground, np.minimum(soft / max(peak, 1e-6), 1), 0).astype(np.float32)


def poisson(image: np.ndarray, picture: np.ndarray, coverage: np.ndarray, opacity: float) -> np.ndarray:
    """Gradient-domain blending (Perez et al. 2003), then mixed by ``opacity``; shapes as in `alpha`.

    The cut is padded by reflection and its mask widened, because OpenCV shrinks the mask and needs room around it.
    """
    pad = _MARGIN + 2 * _EROSION
    region = cv2.copyMakeBorder((coverage > 0.5).astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    side = 2 * _EROSION + 1
    region = cv2.dilate(region, np.ones((side, side), np.uint8))
    x, y, width, height = cv2.boundingRect(region)
    rows = slice(y - _MARGIN, y + height + _MARGIN)
    columns = slice(x - _MARGIN, x + width + _MARGIN)
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REFLECT)
    donor = cv2.copyMakeBorder(picture, pad, pad, pad, pad, cv2.BORDER_REFLECT)
    centre = (_MARGIN + width // 2, _MARGIN + height // 2)
    padded[rows, columns] = cv2.seamlessClone(
        np.ascontiguousarray(donor[rows, columns]),
        np.ascontiguousarray(padded[rows, columns]),
        np.ascontiguousarray(region[rows, columns] * 255),
        centre,
        cv2.NORMAL_CLONE,
    )
    cloned = padded[pad:-pad, pad:-pad]
    # OpenCV's result strays a little beyond the mask; only what the shape covers is taken.
    return alpha(image, cloned, cv2.GaussianBlur(coverage, (0, 0), 0.7), opacity)


def changed(image: np.ndarray, blended: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The annotation: which pixels of ``blended`` differ noticeably from ``image``, bool (H, W).

    A pixel counts if its difference is `CLEAR`, or if it lies in ``support`` (bool (H, W), where the shape is) and
    its smoothed difference is `VISIBLE`. Specks are removed.
    """
    difference = cv2.absdiff(image, blended).max(axis=2).astype(np.float32)
    smooth = cv2.GaussianBlur(difference, (0, 0), _SMOOTHING)
    mask = ((smooth >= VISIBLE) & support) | (difference >= CLEAR)
    _, pieces, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = statistics[:, cv2.CC_STAT_AREA] >= _SPECK
    large[0] = False
    return large[pieces]


def undo_outside(image: np.ndarray, blended: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``blended``, but as in ``image`` wherever it differs by `CLEAR` and is not in the mask: removed specks."""
    stray = (cv2.absdiff(image, blended).max(axis=2) >= CLEAR) & ~mask
    return np.where(stray[..., None], image, blended)
