"""``clflow drift``: detect drift of image scores.

Of every category, the last scores in use are compared with the references: those of the images that the thresholds were
calibrated on, and of images that were confirmed good since. A category has moved if

- the two-sample Kolmogorov-Smirnov test says that both do not come from one distribution, of whatever shape; and
- the difference is large: at some score, the shares of images below it differ by `EFFECT`. Between normal distributions
  that is a shift of 0.8 standard deviations.

Both samples must have `FEWEST` images. The test assumes that

- the parts in use are mostly normal, as the references are: a rise of defects is a move, too, and is meant to be seen;
- images are independent of each other: different images of the same part make a move look surer than it is.

People look again and again, and at several categories, so each comparison is held to ``alpha`` divided by the number
of looks and of categories (Bonferroni, which holds however much the looks have in common): the chance of any false
alarm in all looks together stays below ``alpha``. That is exact for references that are exchangeable with new images;
those that were trained on are so approximately (`clflow.calibration`), by less than `EFFECT`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from clflow.config.schema import Watching
from clflow.errors import ClflowError
from pipelines import console
from pipelines.inference import watch
from pipelines.inference.watch import KEPT, Model, Watch

FEWEST = 20
"""Images of either sample below which nothing is said."""

EFFECT = 0.3
"""The least difference, as Kolmogorov-Smirnov statistic, that is a move."""

_EVEN = 0.1  # difference of the probability of superiority from a half; below it, a move is one of the spread


@dataclass(frozen=True)
class Verdict:
    """The comparison of one category.

    Attributes:
        n_recent, n_reference: images compared.
        recent, reference: medians of their scores.
        shift: between the medians, in interquartile ranges of the references; NaN where that range is zero.
        superiority: probability that a new image scores above a reference, ties counted half.
        statistic, p_value: of the test.
        level: a p-value at or below it is a move, if the difference is large.
    """

    n_recent: int
    n_reference: int
    recent: float
    reference: float
    shift: float
    superiority: float
    statistic: float
    p_value: float
    level: float

    @property
    def too_few(self) -> bool:
        """Whether there are too few images to tell."""
        return min(self.n_recent, self.n_reference) < FEWEST

    @property
    def moved(self) -> bool:
        """Whether the scores have moved."""
        return not self.too_few and self.p_value <= self.level and self.statistic >= EFFECT

    @property
    def direction(self) -> str:
        """In which direction they are apart."""
        if abs(self.superiority - 0.5) < _EVEN:
            return "in spread"
        return "up" if self.superiority > 0.5 else "down"

    def __str__(self) -> str:
        if self.too_few:
            return (
                f"too little to tell: {self.n_recent} new images and {self.n_reference} references, of each {FEWEST} "
                "are needed; --accept adds references."
            )
        return (
            f"{self.n_recent} new images, {self.n_reference} references; median {self.recent:.4g}, was "
            f"{self.reference:.4g}, shift {self.shift:+.2f} IQR; a new image scores above a reference with probability "
            f"{self.superiority:.2f}; KS {self.statistic:.2f}, p {self.p_value:.2g}: "
            f"{f'moved {self.direction}' if self.moved else 'no sign of a move'}"
        )


def compare(recent: tuple[float, ...], reference: tuple[float, ...], level: float) -> Verdict:
    """Compare recent scores with those of the references, both at least one."""
    test: Any = ks_2samp(recent, reference)  # exact up to 10,000 scores, and fewer are kept
    low, high = np.quantile(reference, [0.25, 0.75])
    medians = float(np.median(recent)), float(np.median(reference))
    ordered = np.sort(reference)
    below, at_most = (np.searchsorted(ordered, recent, side).mean() for side in ("left", "right"))
    return Verdict(
        len(recent),
        len(reference),
        *medians,
        float((medians[0] - medians[1]) / (high - low)) if high > low else math.nan,
        float((below + at_most) / (2 * len(reference))),
        float(test.statistic),
        float(test.pvalue),
        level,
    )


def run(folder: Path, watching: Watching, as_json: bool = False) -> bool:
    """Print a line for each category that is watched in a folder, or all as JSON; returns whether any has moved.

    Where several models of a category were watched, it is the one that gave the last score.

    Raises:
        DataError: the folder holds no watched scores.
        ClflowError: the window is longer than what is kept, or too short to tell anything.
    """
    if not FEWEST <= watching.window <= KEPT:
        raise ClflowError(f"watching.window is {watching.window}, but must be between {FEWEST} and {KEPT}; correct it.")
    watches = sorted((Watch.read(path) for path in watch.watched(folder)), key=lambda each: each.updated)
    latest = {(each.model.dataset, each.model.category): each for each in watches}
    level = watching.alpha / (watching.looks * len(latest))
    verdicts: list[tuple[Model, Verdict | None]] = []
    for _, each in sorted(latest.items()):
        recent = tuple(each.recent.values())[-watching.window :]
        verdicts.append((each.model, compare(recent, each.references, level) if recent else None))
    if as_json:
        console.write_json([_row(model, verdict) for model, verdict in verdicts])
    else:
        _tell(verdicts, level, watching)
    return any(verdict is not None and verdict.moved for _, verdict in verdicts)


def _tell(verdicts: list[tuple[Model, Verdict | None]], level: float, watching: Watching) -> None:
    print(
        f"two-sample Kolmogorov-Smirnov test against good images; a move is p <= {level:.2g} (alpha {watching.alpha:g} "
        f"over {watching.looks} looks at {len(verdicts)} categories) and KS >= {EFFECT:g}"
    )
    for model, verdict in verdicts:
        said = verdict or "no new images since the last were accepted"
        print(f"{model.dataset}/{model.category} (cell {model.key[:12]}): {said}")


def _row(model: Model, verdict: Verdict | None) -> dict[str, Any]:
    named = {"dataset": model.dataset, "category": model.category, "cell_key": model.key}
    if verdict is None:
        return named | dict.fromkeys(each.name for each in fields(Verdict)) | {"too_few": True, "moved": False}
    figures = asdict(verdict) | {"shift": None if math.isnan(verdict.shift) else verdict.shift}
    return named | figures | {"too_few": verdict.too_few, "moved": verdict.moved}


def accept(folder: Path, confirmed: Path) -> None:
    """Make the images that are watched in ``confirmed`` references in ``folder``, and print how many.

    Raises:
        DataError: see `pipelines.inference.watch.accept`.
    """
    for each in watch.accept(folder, confirmed):
        made, model = each.acceptances[-1], each.model
        print(
            f"{model.dataset}/{model.category} (cell {model.key[:12]}): {made.images} images confirmed good by "
            f"{made.by}; {len(each.references)} references now. The thresholds of the model stay as they are."
        )
