"""How sure the image AUROC of methods, and what the first gains over the others, is on this many test images.

Test images are resampled, the same for all methods and seeds of a category; so an interval says what other test images
might have given, and not what other seeds might. Rows of category "mean" average the categories; one without normal or
without defective test images has no row.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from clflow.bootstrap import draw_counts, resampled_auroc
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import MEAN, has_both_classes, read_scores

_INTERVAL = (0.025, 0.975)
_GAINS = ("dataset", "category", "method", "rival", "gain", "lower", "upper")
_INTERVALS = ("dataset", "category", "method", "lower", "upper")

Draws = dict[tuple[str, str], dict[str, dict[int, np.ndarray]]]
"""By dataset and category, method, and seed: the AUROC on the test set and, after it, those on its resamples."""


def resample(aggregated: list[Cell], workspace: Workspace) -> Draws:
    """Resample the test images of each category that has normal and defective ones."""
    groups = groupby(aggregated, key=lambda cell: (cell.dataset, cell.category))
    # Each with a seed of its own: alike draws in all categories would make the interval of their mean too wide.
    drawn = {category: _drawn(list(cells), workspace, seed) for seed, (category, cells) in enumerate(groups)}
    return {category: of_category for category, of_category in drawn.items() if of_category}


def gains(draws: Draws) -> pd.DataFrame:
    """Differences in image AUROC between the first method and each other, averaged over the seeds that both have.

    Returns:
        columns dataset, category, method, rival, gain, and the bounds lower and upper of a 95 % interval.
    """
    rows = []
    for dataset, of_dataset in _by_dataset(draws).items():
        differences: dict[tuple[str, str], list[np.ndarray]] = {}
        for category, drawn in of_dataset.items():
            (method, own), *others = drawn.items()
            for rival, of_rival in others:
                seeds = own.keys() & of_rival.keys()
                if not seeds:
                    continue  # of an incomplete table
                difference = np.mean([own[seed] - of_rival[seed] for seed in seeds], axis=0)
                rows.append([dataset, category, method, rival, float(difference[0]), *_bounds(difference)])
                differences.setdefault((method, rival), []).append(difference)
        for (method, rival), of_categories in differences.items():
            mean = np.mean(of_categories, axis=0)
            rows.append([dataset, MEAN, method, rival, float(mean[0]), *_bounds(mean)])
    return pd.DataFrame(rows, columns=list(_GAINS))


def auroc_intervals(draws: Draws) -> pd.DataFrame:
    """95 % intervals of each method's image AUROC, mean over its seeds.

    Returns:
        columns dataset, category, method, lower and upper.
    """
    rows = []
    for dataset, of_dataset in _by_dataset(draws).items():
        means: dict[str, list[np.ndarray]] = {}
        for category, drawn in of_dataset.items():
            for method, of_seeds in drawn.items():
                mean = np.mean([*of_seeds.values()], axis=0)
                rows.append([dataset, category, method, *_bounds(mean)])
                means.setdefault(method, []).append(mean)
        for method, of_categories in means.items():
            rows.append([dataset, MEAN, method, *_bounds(np.mean(of_categories, axis=0))])
    return pd.DataFrame(rows, columns=list(_INTERVALS))


def _by_dataset(draws: Draws) -> dict[str, dict[str, dict[str, dict[int, np.ndarray]]]]:
    datasets: dict[str, dict[str, dict[str, dict[int, np.ndarray]]]] = {}
    for (dataset, category), drawn in draws.items():
        datasets.setdefault(dataset, {})[category] = drawn
    return datasets


def _drawn(cells: list[Cell], workspace: Workspace, seed: int) -> dict[str, dict[int, np.ndarray]]:
    """By method and seed; empty without both classes."""
    drawn: dict[str, dict[int, np.ndarray]] = {}
    counts = None
    for cell in cells:
        table = read_scores(cell, workspace)[0]
        if not has_both_classes(table):
            return {}
        labels, scores = table["label"].to_numpy(), table["image_score"].to_numpy()
        if counts is None:
            counts = draw_counts(labels, seed)
        auroc = [roc_auc_score(labels, scores), *resampled_auroc(labels, scores, counts)]
        drawn.setdefault(cell.method, {})[cell.seed] = np.array(auroc)
    return drawn


def _bounds(drawn: np.ndarray) -> tuple[float, float]:
    """Of the interval, from the figure on the test set and, after it, those on its resamples."""
    lower, upper = np.quantile(drawn[1:], _INTERVAL)
    return float(lower), float(upper)
