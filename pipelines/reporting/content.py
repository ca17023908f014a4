"""What the page shows of each category and cell, as JSON-able values of bounded size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clflow.metrics import METRICS
from clflow.rates import AT_THRESHOLD, RATES
from pipelines.reporting.cases import VERDICTS, Pictures, ScoredCell
from pipelines.reporting.formats import RATE_TITLES, TITLES
from pipelines.reporting.plots import KINDS, above_lowest, roc, with_held_out
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import CALIBRATION, TEST_IMAGES, missing_images, read_history

_BINS, _POINTS = 32, 100
_IDENTITY = ["dataset", "category", "method", "seed"]
_NO_CURVES = {*_IDENTITY, "step", "seconds"}


@dataclass(frozen=True)
class Results:
    """What a benchmark has measured.

    Attributes:
        cells: cells.csv.
        board: leaderboard.csv.
        pro: pro.csv.
        intervals: see `pipelines.reporting.comparison.auroc_intervals`.
    """

    cells: pd.DataFrame
    board: pd.DataFrame
    pro: pd.DataFrame
    intervals: pd.DataFrame


def content(results: Results, scored: dict[Cell, ScoredCell], pictures: Pictures, workspace: Workspace) -> Any:
    """All that the page draws.

    Args:
        results: of the benchmark.
        scored: the same cells, in the order of the rows.
        pictures: of the first cell of each category and method.
        workspace: the cells'.
    """
    pro = dict(list(results.pro.groupby(_IDENTITY, sort=False)))
    rows = zip(scored.items(), results.cells.to_dict("records"), strict=True)
    return {
        "methods": list(results.board["method"].unique()),
        "kinds": KINDS,
        "verdicts": VERDICTS,
        "figures": TITLES | RATE_TITLES,
        "means": [_mean(row, results.intervals) for row in results.board.to_dict("records")],
        "categories": _categories(results.cells),
        "images": pictures.images,
        "picture": pictures.size,
        "cells": [_cell(cell, of_cell, row, pro, pictures, workspace) for (cell, of_cell), row in rows],
    }


def _mean(row: dict[Any, Any], intervals: pd.DataFrame) -> dict[str, Any]:
    """A row of the leaderboard: each figure with the bounds of its interval."""
    bounds = {name: (row[f"{name}_lower"], row[f"{name}_upper"]) for name in RATES}
    means = {name: row[name] for name in RATES}
    for name in METRICS:
        means[name], deviation = row[f"{name}_mean"], row[f"{name}_std"]
        bounds[name] = means[name] - deviation, means[name] + deviation
    bounds["image_auroc"] = interval_of(row, intervals) or bounds["image_auroc"]
    figures = {name: [number(value) for value in (means[name], *bounds[name])] for name in means}
    return {name: row[name] for name in ("dataset", "category", "method")} | {"figures": figures}


def interval_of(row: dict[Any, Any], intervals: pd.DataFrame) -> tuple[float, float] | None:
    """The 95 % interval of image AUROC that belongs to a row of the leaderboard, if there is one."""
    same = intervals
    for name in ("dataset", "category", "method"):
        same = same.loc[same[name] == row[name]]
    return None if same.empty else (float(same["lower"].iloc[0]), float(same["upper"].iloc[0]))


def _categories(cells: pd.DataFrame) -> list[dict[str, Any]]:
    shown = ["dataset", "category", *TEST_IMAGES]
    rows = cells.drop_duplicates(["dataset", "category"]).loc[:, shown].to_dict("records")
    return [row | {"missing": missing_images(*(row[name] for name in TEST_IMAGES))} for row in rows]


def _cell(
    cell: Cell,
    scored: ScoredCell,
    row: dict[Any, Any],
    pro: dict[Any, pd.DataFrame],
    pictures: Pictures,
    workspace: Workspace,
) -> dict[str, Any]:
    counts = [scored.verdict(image) for image in scored.scores.index]
    curve = pro.get(tuple(row[name] for name in _IDENTITY))
    return {
        **{name: row[name] for name in _IDENTITY},
        "threshold": number(scored.image_threshold),
        "counts": {verdict: counts.count(verdict) for verdict in VERDICTS},
        "figures": {name: number(row[name]) for name in (*METRICS, *AT_THRESHOLD, *CALIBRATION)},
        "histogram": _histogram(cell, scored, workspace),
        "roc": _thinned(roc(scored.scores)),
        "pro": _thinned(curve.loc[:, ["fpr", "overlap"]]) if curve is not None else [],
        "history": _history(cell, workspace),
        "cases": _cases(scored, pictures.heat_maps.get(cell, {})),
    }


def _histogram(cell: Cell, scored: ScoredCell, workspace: Workspace) -> dict[str, Any]:
    """Images of each kind in bins of log10(1 + score above the lowest), and the threshold on that axis."""
    images = with_held_out(cell, scored.scores, workspace)
    lowest = min(*images["image_score"].tolist(), scored.image_threshold)
    beyond = above_lowest(images["image_score"], lowest)
    edges = np.histogram_bin_edges(beyond, _BINS)
    counts = [np.histogram(beyond[images["image"] == kind], edges)[0].tolist() for kind in KINDS]
    at = above_lowest(scored.image_threshold, lowest)
    return {"lowest": number(lowest), "edges": [number(e) for e in edges], "counts": counts, "threshold": number(at)}


def _history(cell: Cell, workspace: Workspace) -> dict[str, list[float | None]]:
    history = read_history(cell, workspace)
    rows = history.iloc[_spread(len(history))]
    return {
        name: [number(value) for value in rows[name]]
        for name in rows.select_dtypes("number").columns
        if name == "step" or name not in _NO_CURVES
    }


def _cases(scored: ScoredCell, heat_maps: dict[int, str]) -> list[dict[str, Any]]:
    images = scored.scores.loc[list(heat_maps)].to_dict("index")
    return [
        {
            **{"path": image["path"], "defect": image["defect"], "score": number(image["image_score"])},
            **{"verdict": scored.verdict(int(row)), "heat": heat_maps[int(row)]},
        }
        for row, image in images.items()
    ]


def _thinned(curve: pd.DataFrame) -> list[list[float | None]]:
    return [[number(x), number(y)] for x, y in curve.iloc[_spread(len(curve))].itertuples(index=False)]


def _spread(length: int) -> np.ndarray:
    """Which of so many points are kept, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, _POINTS)).round().astype(int))


def number(value: Any) -> float | None:
    """To five significant digits, which is more than is drawn; None if it does not exist."""
    return None if value is None or math.isnan(value) else float(f"{value:.5g}")
