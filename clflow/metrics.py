"""Metrics of one cell, exact at ties: AUROC, average precision and F1-max of images and pixels, and AUPRO.

Every one of them is determined by the operating points at the distinct scores of the positives, so only the
negatives (nearly all pixels) are sorted, by value alone, and only the positives carry indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from clflow.errors import DataError

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
AUPRO_LIMITS = {"aupro_30": 0.3, "aupro_05": 0.05}
"""Metric name to the false positive rate up to which the per-region overlap is integrated."""
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", *AUPRO_LIMITS)
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)

# 8-connected within an image, not connected between images.
_STRUCTURE = np.stack([np.zeros((3, 3), int), np.ones((3, 3), int), np.zeros((3, 3), int)])


def image_metrics(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Metrics of image scores (N,) against labels (N,), 1 for defective and 0 for normal.

    Returns:
        The values of `IMAGE_METRICS`, each in [0, 1].

    Raises:
        ValueError: shapes differ, a label is neither 0 nor 1, or a score is not finite.
        DataError: all images are of one class.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"Labels {labels.shape} and scores {scores.shape} must be vectors of one length.")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("Labels must be 0 (normal) or 1 (defective).")
    defective = labels.astype(bool)
    _check(scores, defective, "image")
    points = _operating_points(scores[defective], scores[~defective])
    return dict(zip(IMAGE_METRICS, (points.auroc(), points.average_precision(), points.f1max()), strict=True))


def pixel_metrics(masks: NDArray[np.bool_], maps: NDArray[np.floating]) -> dict[str, float]:
    """Metrics of score maps (N, H, W) against masks (N, H, W), True where defective; normal images included.

    AUPRO is the area under the per-region overlap, averaged over regions, up to a limit of the false positive
    rate and divided by that limit (Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021). Regions
    are 8-connected components, as in the official evaluation; the rate is over the defect-free pixels of all
    images.

    Returns:
        The values of `PIXEL_METRICS`, each in [0, 1].

    Raises:
        ValueError: shapes differ, masks are not boolean, or a score is not finite.
        DataError: no pixel is defective, or none is normal.
    """
    if maps.ndim != 3 or masks.shape != maps.shape:
        raise ValueError(f"Masks {masks.shape} and maps {maps.shape} must be (N, H, W) of one shape.")
    if masks.dtype != bool:
        raise ValueError(f"Masks must be boolean, but are {masks.dtype}.")
    _check(maps, masks, "pixel")
    scores = maps[masks]
    points = _operating_points(scores, maps[~masks])
    overlap = _region_overlap(scores, _region_weights(masks))
    values = [points.auroc(), points.average_precision(), points.f1max()]
    values += [_area_to_limit(points, overlap, limit) for limit in AUPRO_LIMITS.values()]
    return dict(zip(PIXEL_METRICS, values, strict=True))


@dataclass(frozen=True)
class _OperatingPoints:
    """Counts at each distinct score of a positive, the strictest threshold first; int64 (T,)."""

    hits: NDArray[np.int64]  # positives at or above
    alarms: NDArray[np.int64]  # negatives at or above
    alarms_above: NDArray[np.int64]  # negatives strictly above
    negatives: int

    @property
    def positives(self) -> int:
        return int(self.hits[-1])

    def auroc(self) -> float:
        """The share of (positive, negative) pairs in the right order, ties counting half."""
        gained = np.diff(self.hits, prepend=0)
        wrong_twice = int(gained @ (self.alarms + self.alarms_above))
        return 1 - wrong_twice / (2 * self.positives * self.negatives)

    def average_precision(self) -> float:
        """The sum of precision times gain in recall, as scikit-learn defines it (no interpolation)."""
        gained = np.diff(self.hits, prepend=0)
        return float(gained @ (self.hits / (self.hits + self.alarms)) / self.positives)

    def f1max(self) -> float:
        """The highest F1 of any threshold; it is reached at a positive, where recall rises."""
        return float((2 * self.hits / (self.hits + self.alarms + self.positives)).max())


def _check(scores: NDArray[np.floating], defective: NDArray[np.bool_], unit: str) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(f"The {unit} scores are not finite everywhere.")
    if not defective.any():
        raise DataError(f"No {unit} of the test set is defective, so {unit} metrics do not exist.")
    if defective.all():
        raise DataError(f"No {unit} of the test set is normal, so {unit} metrics do not exist.")


def _operating_points(positives: NDArray[np.floating], negatives: NDArray[np.floating]) -> _OperatingPoints:
    """Both arguments are scores, (P,) and (M,); ``negatives`` must be the caller's own copy: it is sorted."""
    negatives.sort()
    thresholds, counts = np.unique(positives, return_counts=True)
    at_or_above = len(negatives) - np.searchsorted(negatives, thresholds, side="left")
    above = len(negatives) - np.searchsorted(negatives, thresholds, side="right")
    return _OperatingPoints(np.cumsum(counts[::-1]), at_or_above[::-1], above[::-1], len(negatives))


def _region_weights(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What each defective pixel, in the order of ``maps[masks]``, adds to the mean overlap of regions."""
    defective = masks[masks.any(axis=(1, 2))]
    regions = np.empty(defective.shape, np.int32)
    ndimage.label(defective, _STRUCTURE, output=regions)
    areas = np.bincount(regions[defective])[1:]
    return 1 / (len(areas) * areas[regions[defective] - 1])


def _region_overlap(positives: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The overlap averaged over regions at each distinct score of a positive, from 0 (strict) up to 1."""
    _, threshold = np.unique(positives, return_inverse=True)
    overlap = np.cumsum(np.bincount(threshold, weights)[::-1])
    return overlap / overlap[-1]


def _area_to_limit(points: _OperatingPoints, overlap: NDArray[np.float64], limit: float) -> float:
    """The normalised area under overlap against false positive rate, with straight lines between thresholds.

    Thresholds between two positives only raise the rate; so a threshold adds a level stretch up to the
    negatives strictly above it, then the line to what lies at or above it.
    """
    rate = np.stack([points.alarms_above, points.alarms], axis=1).ravel() / points.negatives
    before = np.concatenate([[0.0], overlap[:-1]])
    height = np.stack([before, overlap], axis=1).ravel()
    rate, height = np.concatenate([[0.0], rate, [1.0]]), np.concatenate([[0.0], height, [1.0]])
    inside = rate <= limit
    at_limit = np.interp(limit, rate, height)
    area = np.trapezoid(np.append(height[inside], at_limit), np.append(rate[inside], limit))
    return min(float(area) / limit, 1.0)  # the sum may exceed 1 by rounding
