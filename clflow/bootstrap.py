"""Paired bootstrap: how sure is it that one set of image scores separates the classes better than another?

Both are resampled together, so that what makes an image hard for both cancels out; defective and normal images are
resampled apart, so that every resample holds as many of each as the test set (stratified bootstrap).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clflow.errors import DataError

RESAMPLES = 2000


@dataclass(frozen=True)
class Gain:
    """A difference in image AUROC.

    Attributes:
        mean: over the resamples.
        lower: one-sided lower bound at the confidence that was asked for.
        upper: one-sided upper bound.
        p: the share of resamples in which the difference does not exceed the margin.
    """

    mean: float
    lower: float
    upper: float
    p: float


def paired_gain(
    labels: ArrayLike, scores: ArrayLike, rival: ArrayLike, margin: float, confidence: float, seed: int = 0
) -> Gain:
    """What ``scores`` (N,) gain in AUROC over the scores of a ``rival`` (N,) for the same images.

    Args:
        labels: (N,), 1 for defective and 0 for normal.
        scores: higher is more anomalous.
        rival: the scores compared with.
        margin: what the difference must exceed; see `Gain`.
        confidence: of each of the two bounds.
        seed: of the resamples; the same seed always gives the same answer.

    Raises:
        ValueError: shapes differ, a label is neither 0 nor 1, or a score is not finite.
        DataError: all images are of one class.
    """
    labels, scores, rival = np.asarray(labels), np.asarray(scores), np.asarray(rival)
    counts = draw_counts(labels, seed)
    difference = resampled_auroc(labels, scores, counts) - resampled_auroc(labels, rival, counts)
    lower, upper = np.quantile(difference, [1 - confidence, confidence])
    return Gain(float(difference.mean()), float(lower), float(upper), float((difference <= margin).mean()))


def draw_counts(labels: NDArray[np.integer], seed: int, resamples: int = RESAMPLES) -> NDArray[np.int64]:
    """How often each image is drawn in each resample, (B, N): with replacement, each class apart.

    Raises:
        ValueError: labels are no vector of 0 and 1.
        DataError: all images are of one class.
    """
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise ValueError("Labels must be a vector of 0 (normal) and 1 (defective).")
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(labels)), np.int64)
    for label, name in ((0, "normal"), (1, "defective")):
        of_class = np.flatnonzero(labels == label)
        if not len(of_class):
            raise DataError(f"No image of the test set is {name}, so models cannot be compared by AUROC.")
        counts[:, of_class] = rng.multinomial(len(of_class), np.full(len(of_class), 1 / len(of_class)), resamples)
    return counts


def resampled_auroc(
    labels: NDArray[np.integer], scores: NDArray[np.floating], counts: NDArray[np.integer]
) -> NDArray[np.float64]:
    """AUROC (B,) of resamples in which image n was drawn ``counts[b, n]`` times: the share of (defective, normal)
    pairs in the right order, ties counting half. Sorted once, for all resamples.

    Raises:
        ValueError: shapes differ, or a score is not finite.
    """
    if scores.shape != labels.shape or counts.shape[1:] != labels.shape:
        raise ValueError(f"Scores {scores.shape} and counts {counts.shape} must fit labels {labels.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError("The image scores are not finite everywhere.")
    defective = labels == 1
    order = np.argsort(scores[~defective])
    normal, normal_counts = scores[~defective][order], counts[:, ~defective][:, order]
    below = np.pad(np.cumsum(normal_counts, axis=1), ((0, 0), (1, 0)))  # how many of the first i, for every i
    strictly, at_most = (np.searchsorted(normal, scores[defective], side) for side in ("left", "right"))
    drawn = counts[:, defective]
    twice_won = (drawn * (below[:, strictly] + below[:, at_most])).sum(axis=1)
    return twice_won / (2 * drawn.sum(axis=1) * normal_counts.sum(axis=1))
