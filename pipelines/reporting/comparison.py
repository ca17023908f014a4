"""What the first method of a benchmark gains over the others, and how sure that is on this many test images."""

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
_COLUMNS = ("dataset", "category", "method", "rival", "gain", "lower", "upper")


def gains(aggregated: list[Cell], workspace: Workspace) -> pd.DataFrame:
    """Differences in image AUROC between the first method and each other, averaged over the seeds that both have.

    Test images are resampled, the same for both methods and all seeds; so an interval says what other test images
    might have given, and not what other seeds might. The rows of category "mean" average the categories; one
    without normal or without defective test images has no gain.

    Returns:
        columns dataset, category, method, rival, gain, and the bounds lower and upper of a 95 % interval.
    """
    rows = []
    for dataset, of_dataset in groupby(aggregated, key=lambda cell: cell.dataset):
        differences: dict[tuple[str, str], list[np.ndarray]] = {}
        for category, group in groupby(of_dataset, key=lambda cell: cell.category):
            drawn = _drawn(list(group), workspace)
            if not drawn:
                continue
            (method, own), *others = drawn.items()
            for rival, draws in others:
                seeds = own.keys() & draws.keys()
                if not seeds:
                    continue  # of an incomplete table
                difference = np.mean([own[seed] - draws[seed] for seed in seeds], axis=0)
                rows.append(_row(dataset, category, method, rival, difference))
                differences.setdefault((method, rival), []).append(difference)
        for (method, rival), of_categories in differences.items():
            mean = np.mean(of_categories, axis=0)
            rows.append(_row(dataset, MEAN, method, rival, mean))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _drawn(cells: list[Cell], workspace: Workspace) -> dict[str, dict[int, np.ndarray]]:
    """By method and seed: the AUROC of the test set, then those of the resamples; empty without both classes."""
    drawn: dict[str, dict[int, np.ndarray]] = {}
    counts = None
    for cell in cells:
        table = read_scores(cell, workspace)[0]
        if not has_both_classes(table):
            return {}
        labels, scores = table["label"].to_numpy(), table["image_score"].to_numpy()
        if counts is None:
            counts = draw_counts(labels, seed=0)
        auroc = [roc_auc_score(labels, scores), *resampled_auroc(labels, scores, counts)]
        drawn.setdefault(cell.method, {})[cell.seed] = np.array(auroc)
    return drawn


def _row(dataset: str, category: str, method: str, rival: str, difference: np.ndarray) -> list[object]:
    """A row from the difference on the test set and, after it, those on its resamples."""
    bounds = np.quantile(difference[1:], _INTERVAL)
    return [dataset, category, method, rival, float(difference[0]), *map(float, bounds)]
