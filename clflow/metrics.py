"""Metrics of one cell: AUROC, average precision and F1-max of images and pixels, and AUPRO.

Every one of them is determined by the operating points at the distinct scores of the positives. Image metrics are
exact. Pixels are counted in bins of their scores, so that any number of maps fits into the same memory and none is
sorted; scores of one bin count as ties. The bins are so fine that no metric moves by 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clflow.errors import DataError

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
AUPRO_LIMITS = {"aupro_30": 0.3, "aupro_05": 0.05}
"""Metric name to the false positive rate up to which the per-region overlap is integrated."""
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", *AUPRO_LIMITS)
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)

_FRACTION_BITS = 13
_SIDE = 24 << _FRACTION_BITS  # bins on one side of the typical score

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
    if not np.isfinite(scores).all():
        raise ValueError("The image scores are not finite everywhere.")
    _check_classes(bool(defective.any()), not defective.all(), "image")
    points = _operating_points(scores[defective], scores[~defective])
    return dict(zip(IMAGE_METRICS, (points.auroc(), points.average_precision(), points.f1max()), strict=True))


@dataclass(frozen=True)
class Truth:
    """Ground truth of some images, ready to be counted against any method's maps; normal images included.

    Args:
        masks: bool (N, H, W), True where defective.

    Raises:
        ValueError: masks are not boolean or not (N, H, W).
    """

    masks: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.masks.dtype != bool or self.masks.ndim != 3:
            raise ValueError(f"Masks {self.masks.shape} must be boolean (N, H, W), but are {self.masks.dtype}.")

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """One over the area of its region, for every pixel of ``maps[masks]``: what it adds to the overlap."""
        from scipy import ndimage  # slow to import, which who only reads parameters must not wait for

        defective = self.masks[self.masks.any(axis=(1, 2))]
        regions = np.empty(defective.shape, np.int32)
        ndimage.label(defective, _STRUCTURE, output=regions)
        areas = np.bincount(regions[defective])[1:]
        return 1 / areas[regions[defective] - 1]


class PixelCounts:
    """Pixels of one cell, counted by score: add maps a few at a time, in any order, then ask for the metrics.

    Bins are logarithmic on both sides of the typical score, as wide as a 2^-13th of the distance from it, over 24
    octaves; so neither outliers nor the units of a score cost resolution.

    Args:
        typical: the score about which resolution is highest.
        reach: the farthest that any score is from it.
    """

    def __init__(self, typical: float, reach: float):
        self._typical = np.float32(typical)
        self._lowest = _logarithmic(np.array([reach or 1.0], np.float32))[0] - _SIDE
        self._pixels, self._positives = np.zeros((2, 2 * _SIDE + 1), np.int64)
        self._overlap = np.zeros(2 * _SIDE + 1)

    @classmethod
    def spanning(cls, maps: NDArray[np.floating]) -> PixelCounts:
        """For these maps (any shape), or others with no score beyond theirs, such as the same maps interpolated.

        Raises:
            ValueError: a score is not finite.
        """
        if not np.isfinite(maps).all():
            raise ValueError("The pixel scores are not finite everywhere.")
        typical = np.median(maps)
        return cls(float(typical), float(np.abs(maps - typical).max()))

    def add(self, truth: Truth, maps: NDArray[np.floating]) -> None:
        """Count the pixels of score maps (N, H, W).

        Raises:
            ValueError: the maps do not have the shape of the masks.
        """
        if truth.masks.shape != maps.shape:
            raise ValueError(f"Masks {truth.masks.shape} and maps {maps.shape} must be (N, H, W) of one shape.")
        size = len(self._pixels)
        for image in maps:  # one at a time: what is computed on the way then stays in the processor's cache
            self._pixels += np.bincount(self._bins(image.ravel()), minlength=size)
        positives = self._bins(maps[truth.masks])
        self._positives += np.bincount(positives, minlength=size)
        self._overlap += np.bincount(positives, truth.weights, minlength=size)

    def metrics(self) -> dict[str, float]:
        """The values of `PIXEL_METRICS` over all that was counted, each in [0, 1].

        AUPRO is the area under the per-region overlap, averaged over regions, up to a limit of the false positive
        rate and divided by that limit (Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021). Regions
        are 8-connected components, as in the official evaluation; the rate is over the defect-free pixels of all
        images.

        Raises:
            DataError: no pixel is defective, or none is normal.
        """
        positives, pixels = self._positives[::-1], self._pixels[::-1]
        _check_classes(bool(positives.any()), bool((pixels > positives).any()), "pixel")
        alarms = self.false_positives()
        at = np.flatnonzero(positives)
        above = alarms[at] - (pixels - positives)[at]
        points = _OperatingPoints(np.cumsum(positives)[at], alarms[at], above, int(alarms[-1]))
        overlap = self.overlap()[at]
        overlap /= overlap[-1]  # the number of regions
        values = [points.auroc(), points.average_precision(), points.f1max()]
        values += [_area_to_limit(points, overlap, limit) for limit in AUPRO_LIMITS.values()]
        return dict(zip(PIXEL_METRICS, values, strict=True))

    def false_positives(self) -> NDArray[np.int64]:
        """Defect-free pixels at or above each threshold, the highest threshold first."""
        return np.cumsum((self._pixels - self._positives)[::-1])

    def overlap(self) -> NDArray[np.float64]:
        """Per-region overlap at the same thresholds, summed over regions."""
        return np.cumsum(self._overlap[::-1])

    def _bins(self, scores: NDArray[np.floating]) -> NDArray[np.int64]:
        offset = scores.astype(np.float32) - self._typical
        distance = np.clip(_logarithmic(np.abs(offset)) - self._lowest, 0, _SIDE)
        return _SIDE + np.where(offset < 0, -distance, distance)


def pixel_metrics(masks: NDArray[np.bool_], maps: NDArray[np.floating]) -> dict[str, float]:
    """Metrics of score maps (N, H, W) against masks (N, H, W); see `PixelCounts.metrics`.

    Raises:
        ValueError: shapes differ, masks are not boolean, or a score is not finite.
        DataError: no pixel is defective, or none is normal.
    """
    counts = PixelCounts.spanning(maps)
    counts.add(Truth(masks), maps)
    return counts.metrics()


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


def _check_classes(any_defective: bool, any_normal: bool, unit: str) -> None:
    if not any_defective:
        raise DataError(f"No {unit} of the test set is defective, so {unit} metrics do not exist.")
    if not any_normal:
        raise DataError(f"No {unit} of the test set is normal, so {unit} metrics do not exist.")


def _operating_points(positives: NDArray[np.floating], negatives: NDArray[np.floating]) -> _OperatingPoints:
    """Both arguments are scores, (P,) and (M,); ``negatives`` must be the caller's own copy: it is sorted."""
    negatives.sort()
    thresholds, counts = np.unique(positives, return_counts=True)
    at_or_above = len(negatives) - np.searchsorted(negatives, thresholds, side="left")
    above = len(negatives) - np.searchsorted(negatives, thresholds, side="right")
    return _OperatingPoints(np.cumsum(counts[::-1]), at_or_above[::-1], above[::-1], len(negatives))


def _logarithmic(distances: NDArray[np.float32]) -> NDArray[np.int32]:
    """A whole number that grows with the logarithm of float32 >= 0, by 2^13 an octave: its bits, the last ones cut."""
    return distances.view(np.int32) >> (23 - _FRACTION_BITS)


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
