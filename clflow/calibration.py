"""Thresholds that keep a false alarm rate: conformal prediction on normal images that score like new ones.

If the scores of n calibration images and of a new normal image are exchangeable, the new one lies above the k-th
smallest with probability (n + 1 - k) / (n + 1), whatever their distribution (arXiv 2107.07511, theorem 1). Given the
calibration images, the rate itself is drawn from Beta(n + 1 - k, k) (section 3.2 there).

Held-out images are exchangeable with new ones. Training images are so approximately, if they are whitened by the
statistics of others: the flow, which has few parameters, has seen them (docs/explanation/research.md, Layout).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from clflow.errors import DataError


@dataclass(frozen=True)
class Rank:
    """The rank of a threshold among the scores of calibration images, and what it promises.

    Attributes:
        images: n, how many there are.
        rank: k; images that score above the k-th smallest are called anomalous.
    """

    images: int
    rank: int

    @classmethod
    def keeping(cls, rate: float, images: int) -> Rank:
        """The lowest rank that keeps a false alarm rate; the highest there is where none does."""
        return cls(images, min(images, math.ceil((images + 1) * (1 - rate) - 1e-9)))

    @classmethod
    def of_rate(cls, expected: float, images: int) -> Self:
        """The rank whose expected false alarm rate that is."""
        return cls(images, images + 1 - round(expected * (images + 1)))

    @property
    def rate(self) -> float:
        """The expected false alarm rate."""
        return (self.images + 1 - self.rank) / (self.images + 1)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The central interval of the false alarm rate, given the calibration images."""
        from scipy import stats  # slow to import, and few ask for intervals

        low, high = stats.beta(self.images + 1 - self.rank, self.rank).interval(confidence)
        return float(low), float(high)

    def of(self, scores: np.ndarray) -> float:
        """The threshold, among scores (n,)."""
        return float(np.sort(scores)[self.rank - 1])


def images_needed(rate: float) -> int:
    """The fewest calibration images that can keep a false alarm rate."""
    return math.ceil(1 / rate - 1e-9) - 1


@dataclass(frozen=True)
class Thresholds:
    """Scores above which an image, or a pixel, is called anomalous, and what they were computed from.

    Attributes:
        image: of image scores.
        pixel: of score maps; normal images have a pixel above it as rarely as they score above ``image``.
        median_pixel_score: of normal images, where the colours of a heat map begin.
        calibration_scores: image scores of the calibration images.
    """

    image: float
    pixel: float
    median_pixel_score: float
    calibration_scores: tuple[float, ...]

    @classmethod
    def keeping(cls, rate: float, maps_nhw: np.ndarray, scores_n: np.ndarray) -> Self:
        """The lowest that keep a false alarm rate, from score maps and image scores of calibration images; see `Rank`
        for what becomes of it where they are too few."""
        rank = Rank.keeping(rate, len(scores_n))
        highest = maps_nhw.reshape(len(maps_nhw), -1).max(axis=1)
        return cls(rank.of(scores_n), rank.of(highest), float(np.median(maps_nhw)), tuple(map(float, scores_n)))

    @classmethod
    def read(cls, config: dict[str, Any], folder: Path) -> Self:
        """From what `dataclasses.asdict` made of the thresholds of the detector in a folder.

        Raises:
            DataError: they are of a version that kept other things.
        """
        try:
            return cls(**{**config, "calibration_scores": tuple(config["calibration_scores"])})
        except (KeyError, TypeError):
            raise DataError(
                f"{folder} holds thresholds of another version of clflow; train, or export, the detector again."
            ) from None

    def image_at(self, threshold: float | None, rate: float | None) -> float:
        """The image threshold that is given, or else that keeps the given false alarm rate, or else the stored one.

        Raises:
            DataError: both are given, or there are too few calibration images for the rate.
        """
        if threshold is not None and rate is not None:
            raise DataError("a threshold and a false alarm rate are given; one determines the other, so give one.")
        if rate is None:
            return self.image if threshold is None else threshold
        images = len(self.calibration_scores)
        if images < images_needed(rate):
            raise DataError(
                f"{images} calibration images cannot keep a false alarm rate of {rate:g}; {images_needed(rate)} are "
                f"needed, or a rate of at least {1 / (images + 1):.2g}."
            )
        return Rank.keeping(rate, images).of(np.array(self.calibration_scores))
