"""What choosing the weights by the test set would seem to gain, beside the result and never in its place."""

from __future__ import annotations

from itertools import groupby

import pandas as pd

from clflow.metrics import image_metrics
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import has_both_classes, read_eval_scores, read_scores

_COLUMNS = ("dataset", "category", "method", "n_seeds", "last", "best")


def best_on_test(aggregated: list[Cell], workspace: Workspace) -> pd.DataFrame:
    """Image AUROC of the last weights, and of those of the best evaluation on the test set, mean over seeds.

    Returns:
        columns dataset, category, method, n_seeds, last and best, of the cells that kept the weights of every
        evaluation and have normal and defective test images.
    """
    rows = []
    for (dataset, category, method), group in groupby(aggregated, key=lambda c: (c.dataset, c.category, c.method)):
        found = [pair for cell in group if (pair := _last_and_best(cell, workspace))]
        if found:
            last, best = (sum(values) / len(found) for values in zip(*found, strict=True))
            rows.append([dataset, category, method, len(found), last, best])
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _last_and_best(cell: Cell, workspace: Workspace) -> tuple[float, float] | None:
    by_step, scores = read_eval_scores(cell, workspace), read_scores(cell, workspace)[0]
    if by_step is None or not has_both_classes(scores):
        return None
    labels = scores["label"].to_numpy()
    aurocs = [image_metrics(labels, by_step[step].to_numpy())["image_auroc"] for step in by_step.columns]
    return aurocs[-1], max(aurocs)
