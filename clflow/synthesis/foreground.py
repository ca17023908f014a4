"""Where a defect can be: the object in front of its background, or the whole image of a textured surface.

Nothing is learnt or labelled. The border of an image shows what the background looks like; what differs from
that is the object. A surface has no background: there the border differs from itself as much as the middle does.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_RING = 0.03  # width of the border, share of the image's side
_BORDER_SHARE = 0.45  # an object covers at most this share of the border, relative to its share of the middle
_COVERAGE = (0.01, 0.92)  # smallest and largest share of the image that an object covers
_SEPARATION = 0.60  # share of the variance of the distance to the background that the two classes explain
_STEEP = 0.08  # slope of an edge: share of Otsu's threshold per pixel of a 256 pixel image
_PART = 0.1  # pieces smaller than this share of the largest one are dirt


def shows_object(images: Sequence[np.ndarray]) -> bool:
    """Whether a category shows an object in front of a background (True) or a textured surface (False).

    Decided by the medians over the images, so a few odd ones do no harm. It is an object if what differs
    from the border covers the border much less than the middle, a plausible part of the image, and is set
    apart clearly (Otsu's separability).

    Args:
        images: some images of the category, uint8 (H, W, 3).
    """
    evidence = np.median([_evidence(image) for image in images], axis=0)
    border_share, coverage, separation = evidence
    plausible = _COVERAGE[0] <= coverage <= _COVERAGE[1]
    return bool(border_share <= _BORDER_SHARE and plausible and separation >= _SEPARATION)


def foreground(image: np.ndarray, has_object: bool) -> np.ndarray:
    """Mask of the object, bool (H, W), filled and dilated by about one percent of the side.

    All True if the category shows a surface, and for an image in which no object stands out.
    """
    if not has_object:
        return np.ones(image.shape[:2], bool)
    mask, _ = _differs_from_border(image)
    share = mask.mean()
    if not _COVERAGE[0] / 2 <= share <= _COVERAGE[1]:
        return np.ones(image.shape[:2], bool)
    return mask


def _evidence(image: np.ndarray) -> tuple[float, float, float]:
    """Share of the border relative to that of the middle, coverage, and separability of the two classes."""
    mask, separation = _differs_from_border(image)
    middle = mask[tuple(slice(side // 4, side - side // 4) for side in mask.shape)].mean()
    border = mask[_ring(mask.shape)].mean()
    return float(border / max(middle, 1e-6)), float(mask.mean()), separation


def _differs_from_border(image: np.ndarray) -> tuple[np.ndarray, float]:
    """What differs from the border, bool (H, W), and Otsu's separability of the distance in [0, 1]."""
    side = min(image.shape[:2])
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (3, 3), 0), cv2.COLOR_RGB2LAB).astype(np.float32)
    offset = lab - _background(lab)
    distance = np.linalg.norm(offset, axis=2)
    levels = np.clip(distance * 2, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    apart = levels > threshold
    variance = levels.var()
    within = sum(levels[part].var() * part.mean() for part in (apart, ~apart) if part.any())
    separation = 1 - within / variance if variance > 0 else 0.0

    # Below the middle between the classes, because parts of an object may look almost like the background.
    mask = (levels > 0.6 * threshold).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(0.004 * side))
    mask = _filled(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(0.012 * side)))
    mask = _without_shadow(mask, levels, offset[..., 0] < 0, _STEEP * threshold * 256 / side)
    return cv2.dilate(mask, _disc(0.008 * side)).astype(bool), float(separation)


def _without_shadow(mask: np.ndarray, levels: np.ndarray, darker: np.ndarray, steep: float) -> np.ndarray:
    """The mask, uint8, less soft shadows: what is darker than the ground and not parted from it by an edge."""
    soft = cv2.GaussianBlur(levels.astype(np.float32), (0, 0), 1)
    slope = np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(soft, cv2.CV_32F, 0, 1, scale=1 / 8))
    open_ground = cv2.erode(((mask == 0) | (darker & (slope < steep))).astype(np.uint8), _disc(1), borderValue=1)
    _, pieces = cv2.connectedComponents(open_ground, connectivity=4, ltype=cv2.CV_16U)
    outside = np.unique(pieces[(mask == 0) & (open_ground > 0)])
    lit = cv2.dilate(np.isin(pieces, outside).astype(np.uint8), _disc(1)) == 0
    rest = cv2.morphologyEx(np.where(lit, mask, 0).astype(np.uint8), cv2.MORPH_OPEN, _disc(1))
    return _filled(cv2.morphologyEx(rest, cv2.MORPH_CLOSE, _disc(0.012 * min(mask.shape))))


def _background(lab: np.ndarray) -> np.ndarray:
    """The background's colour at each pixel: a plane through the border, for light that falls off sideways."""
    height, width = lab.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y], axis=-1)
    ring = _ring((height, width))
    positions, colours = terms[ring], lab[ring]
    # An object may cross the border, so the plane goes through the pixels nearest to the median only.
    off = np.linalg.norm(colours - np.median(colours, axis=0), axis=1)
    near = off <= max(np.quantile(off, 0.7), 4.0)
    plane, *_ = np.linalg.lstsq(positions[near], colours[near], rcond=None)
    return terms @ plane


def _ring(shape: tuple[int, ...]) -> np.ndarray:
    ring = np.ones(shape[:2], bool)
    width = max(round(_RING * min(shape[:2])), 1)
    ring[width:-width, width:-width] = False
    return ring


def _filled(mask: np.ndarray) -> np.ndarray:
    """The large pieces of a mask, uint8, without holes."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return mask
    areas = [cv2.contourArea(contour) for contour in contours]
    large = [c for c, area in zip(contours, areas, strict=True) if area >= _PART * max(areas)]
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, large, -1, 1, cv2.FILLED)
    return filled


def _disc(radius: float) -> np.ndarray:
    side = 2 * max(round(radius), 1) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
