"""False alarms and misses: how often verdicts at a threshold are wrong, and how sure that is on so many images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

RATES = ("false_alarms", "misses")
"""Shares of the normal images called anomalous, and of the defective ones called normal."""

AT_THRESHOLD = tuple(f"{rate}{bound}" for rate in RATES for bound in ("", "_lower", "_upper"))
"""The rates, each with the bounds of its interval."""

_CONFIDENCE = 0.95


def rates_at(threshold: float, labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Rates of the verdict "anomalous above the threshold", with exact 95 % intervals (Clopper and Pearson 1934).

    Args:
        threshold: of the scores.
        labels: (N,), 1 for defective and 0 for normal.
        scores: (N,), higher is more anomalous.

    Returns:
        the values of `AT_THRESHOLD`; NaN where there are no images of the class.

    Raises:
        ValueError: a score is not finite.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if not np.isfinite(scores).all():
        raise ValueError("The image scores are not finite everywhere.")
    anomalous = scores > threshold
    wrong = anomalous[labels == 0], ~anomalous[labels == 1]
    return {name: value for rate, of_class in zip(RATES, wrong, strict=True) for name, value in _rate(rate, of_class)}


def _rate(name: str, wrong: np.ndarray) -> list[tuple[str, float]]:
    names = (name, f"{name}_lower", f"{name}_upper")
    if not len(wrong):
        return [(each, np.nan) for each in names]
    from scipy.stats import binomtest  # slow to import, which who only reads parameters must not wait for

    test: Any = binomtest(int(wrong.sum()), len(wrong))
    interval = test.proportion_ci(_CONFIDENCE, method="exact")
    return list(zip(names, (float(test.statistic), float(interval.low), float(interval.high)), strict=True))
