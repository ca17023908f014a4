"""``clflow drift``: detect drift of image scores.

Of every category, the last scores in use are compared with those of the normal images held out from training, by the
two-sample Kolmogorov-Smirnov test. It asks whether both come from one distribution and assumes nothing of its shape,
but it assumes that

- the parts in use are mostly normal, as the reference is: a rise of defects is a move, too, and is meant to be seen;
- images are independent of each other: the same part seen again and again makes a move look surer than it is.

Several categories are tested at once, so each is held to ``alpha`` divided by their number (Bonferroni): the chance of
any false alarm in a call stays below ``alpha``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from clflow.config.schema import Watching
from clflow.errors import ClflowError, DataError
from pipelines import console
from pipelines.inference.watch import KEPT, Model, Watch


@dataclass(frozen=True)
class Verdict:
    """The comparison of one category.

    Attributes:
        n_recent, n_reference: scores compared.
        recent, reference: their medians.
        shift: between the medians, in interquartile ranges of the reference; NaN where that range is zero.
        statistic, p_value: of the test.
        level: a p-value at or below it is a move.
        smallest: the smallest p-value that so many scores can give.
    """

    n_recent: int
    n_reference: int
    recent: float
    reference: float
    shift: float
    statistic: float
    p_value: float
    level: float
    smallest: float

    @property
    def too_few(self) -> bool:
        """Whether so few scores could never show a move."""
        return self.smallest > self.level

    @property
    def moved(self) -> bool:
        """Whether the scores have moved."""
        return self.p_value <= self.level

    def __str__(self) -> str:
        found = "too few for a verdict" if self.too_few else "moved" if self.moved else "no sign of a move"
        return (
            f"{self.n_recent} recent, {self.n_reference} reference; median {self.recent:.4g}, was "
            f"{self.reference:.4g}, shift {self.shift:+.2f} IQR; KS {self.statistic:.3f}, p {self.p_value:.2g}: {found}"
        )


def compare(recent: tuple[float, ...], reference: tuple[float, ...], level: float) -> Verdict:
    """Compare recent scores with those of the reference, both at least one."""
    test: Any = ks_2samp(recent, reference)  # exact up to 10,000 scores, and fewer are kept
    low, high = np.quantile(reference, [0.25, 0.75])
    medians = float(np.median(recent)), float(np.median(reference))
    return Verdict(
        len(recent),
        len(reference),
        *medians,
        float((medians[0] - medians[1]) / (high - low)) if high > low else math.nan,
        float(test.statistic),
        float(test.pvalue),
        level,
        # All of one sample below all of the other, or above: two of the equally likely orders.
        min(1.0, 2 / math.comb(len(recent) + len(reference), len(recent))),
    )


def run(folder: Path, watching: Watching, as_json: bool = False) -> bool:
    """Print a line for each category that is watched in a folder, or all as JSON; returns whether any has moved.

    Where several models of a category were watched, it is the one that gave the last score.

    Raises:
        DataError: the folder holds no watched scores.
        ClflowError: the window is longer than what is kept.
    """
    if watching.window > KEPT:
        raise ClflowError(f"watching.window is {watching.window}, but only {KEPT} scores are kept; lower it.")
    watches = sorted((Watch.read(path) for path in sorted(folder.glob("*.json"))), key=lambda watch: watch.updated)
    if not watches:
        raise DataError(f"{folder} holds no watched scores; name the folder watch/ of a prediction or a workspace.")
    latest = {(watch.model.dataset, watch.model.category): watch for watch in watches}
    level = watching.alpha / len(latest)
    verdicts = [
        (watch.model, compare(watch.recent[-watching.window :], watch.model.reference, level))
        for _, watch in sorted(latest.items())
    ]
    if as_json:
        console.write_json([_row(model, verdict) for model, verdict in verdicts])
    else:
        print(
            f"two-sample Kolmogorov-Smirnov test against held-out normals, exact; a move is p <= {level:.2g} "
            f"(alpha {watching.alpha:g}, Bonferroni over {len(latest)})"
        )
        for model, verdict in verdicts:
            print(f"{model.dataset}/{model.category} (cell {model.key[:12]}): {verdict}")
    return any(verdict.moved for _, verdict in verdicts)


def _row(model: Model, verdict: Verdict) -> dict[str, Any]:
    named = {"dataset": model.dataset, "category": model.category, "cell_key": model.key}
    figures = asdict(verdict) | {"shift": None if math.isnan(verdict.shift) else verdict.shift}
    return named | figures | {"too_few": verdict.too_few, "moved": verdict.moved}
