"""Plots as data for ``dvc plots`` and, because its pages load their chart library online, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from sklearn.metrics import roc_curve

from clflow.files import folder_atomically
from pipelines.reporting.cases import first_of_each
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import MEAN, has_both_classes, read_cell, read_held_out, read_history, read_scores

_BINS = 20
KINDS = ("normal", "defective", "held-out normal", "synthetic")
"""Of images whose scores are compared: two of the test set, and two that were kept from training."""

# Okabe and Ito's palette: told apart by the colour-blind too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}


@contextmanager
def house_style() -> Iterator[None]:
    """The look of all figures, whatever a person's own style is."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def write(aggregated: list[Cell], board: pd.DataFrame, workspace: Workspace) -> None:
    """Write reports/plots: roc.csv, image_scores.csv, history.csv, and image_auroc.png, image_scores.png,
    cost.png and history.png.

    The first two show the first seed of each category and method, the third every cell.
    """
    scores = {cell: read_scores(cell, workspace)[0] for cell in first_of_each(aggregated)}
    history = pd.concat([_labelled(cell, _history(cell, workspace)) for cell in aggregated], ignore_index=True)
    with folder_atomically(workspace.plots) as folder:
        _write_csv(folder / "roc.csv", scores, roc)
        images = {cell: with_held_out(cell, of_cell, workspace) for cell, of_cell in scores.items()}
        _write_csv(folder / "image_scores.csv", images, score_histogram)
        history.to_csv(folder / "history.csv", index=False, lineterminator="\n")
        with house_style():
            save(image_auroc_figure(board), folder / "image_auroc.png")
            thresholds = {cell: read_cell(cell, workspace)["image_threshold"] for cell in images}
            save(scores_figure(images, thresholds), folder / "image_scores.png")
            save(cost_figure(board), folder / "cost.png")
            save(history_figure(history), folder / "history.png")


def roc(scores: pd.DataFrame) -> pd.DataFrame:
    """The ROC of image scores: columns fpr, tpr; no rows where all images are of one class."""
    if not has_both_classes(scores):
        return pd.DataFrame({"fpr": [], "tpr": []})
    fpr, tpr, _ = roc_curve(scores["label"], scores["image_score"])
    return pd.DataFrame({"fpr": fpr, "tpr": tpr})


def score_histogram(images: pd.DataFrame) -> pd.DataFrame:
    """Images of each kind in each bin of the image score: columns image, image_score, count.

    Args:
        images: columns image, the kind, and image_score.
    """
    edges = np.histogram_bin_edges(images["image_score"], _BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    parts = []
    for image in KINDS:
        counts, _ = np.histogram(images.loc[images["image"] == image, "image_score"], edges)
        parts.append(pd.DataFrame({"image": image, "image_score": centres, "count": counts}))
    return pd.concat(parts, ignore_index=True)


def above_lowest(scores: Any, lowest: float) -> Any:
    """Scores on the axis of histograms: gross defects lie orders of magnitude beyond slight ones."""
    return np.log10(1 + scores - lowest)


def scores_figure(images: dict[Cell, pd.DataFrame], thresholds: dict[Cell, float]) -> Figure:
    """How the first method's image scores are spread about its image threshold, a panel per category.

    Args:
        images: see `score_histogram`.
        thresholds: image thresholds of the same cells.
    """
    method = next(iter(images)).method
    shown = {cell: table for cell, table in images.items() if cell.method == method}
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(max(3.4 * columns, 4.2), 2.3 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, (cell, table) in zip(panels.flat, shown.items(), strict=False):
        lowest = min(*table["image_score"].tolist(), thresholds[cell])
        beyond = above_lowest(table["image_score"], lowest)
        edges = np.histogram_bin_edges(beyond, _BINS)
        for kind, colour in zip(KINDS, _COLOURS, strict=False):
            values = beyond[table["image"] == kind]
            weights = np.full(len(values), 100 / max(len(values), 1))
            panel.hist(values, edges, weights=weights, histtype="step", color=colour, linewidth=1.4, label=kind)
        panel.axvline(above_lowest(thresholds[cell], lowest), color="#333333", linestyle="--", label="threshold")
        panel.set_title(f"{cell.dataset} {cell.category}, {method}")
        panel.set_xlabel("log10(1 + score above the lowest)")
        panel.set_ylabel("% of images")
    for panel in panels.flat[len(shown) :]:
        panel.set_visible(False)
    _legend(figure, panels, loc="outside lower center", ncols=3 if columns < 3 else len(KINDS) + 1)
    return figure


def image_auroc_figure(board: pd.DataFrame) -> Figure:
    """Image AUROC of each category with its deviation over seeds, a panel per dataset, a colour per method.

    Points, not bars: the axis does not start at zero, and the length of a bar would mislead.
    """
    datasets = {dataset: board.loc[board["dataset"] == dataset] for dataset in board["dataset"].unique()}
    methods = list(board["method"].unique())
    widths = [rows["category"].nunique() + 1 for rows in datasets.values()]
    apart = min(0.22, 0.8 / len(methods))  # of a category's width, so that no point comes to lie in the next one's
    figure = Figure(figsize=(max(5.5, 1.2 + max(0.5, 0.13 * len(methods)) * sum(widths)), 4), layout="constrained")
    panels = figure.subplots(1, len(datasets), sharey=True, squeeze=False, width_ratios=widths)[0]
    for panel, (dataset, rows) in zip(panels, datasets.items(), strict=True):
        categories = list(rows["category"].unique())
        for number, method in enumerate(methods):
            of_method = rows.loc[rows["method"] == method]
            place = [categories.index(category) for category in of_method["category"]]
            panel.errorbar(
                np.array(place) + apart * (number - (len(methods) - 1) / 2),
                100 * of_method["image_auroc_mean"],
                yerr=100 * of_method["image_auroc_std"].fillna(0),
                **{"fmt": "o", "markersize": 4.5, "elinewidth": 1.2, "capsize": 2},
                **{"color": _COLOURS[number % len(_COLOURS)], "label": method},
            )
        panel.axvspan(categories.index(MEAN) - 0.5, categories.index(MEAN) + 0.5, color="#f2f2f2", zorder=0)
        panel.set_xticks(range(len(categories)), categories, rotation=40, ha="right", rotation_mode="anchor")
        panel.set_xlim(-0.6, len(categories) - 0.4)
        panel.grid(axis="x", visible=False)
        panel.set_title(dataset)
    panels[0].set_ylabel("image AUROC in %, ± std over seeds")
    _legend(figure, panels, loc="outside upper right", ncols=3)
    return figure


def cost_figure(board: pd.DataFrame) -> Figure:
    """Accuracy against inference cost, means over the categories: a row per dataset, a panel per metric."""
    means = board.loc[(board["category"] == MEAN) & (board["n_seeds"] > 0)]
    metrics = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_30": "AUPRO@0.3"}
    datasets, methods = list(means["dataset"].unique()), list(board["method"].unique())
    figure = Figure(figsize=(9, 2.9 * max(len(datasets), 1) + 0.3), layout="constrained")
    panels = figure.subplots(max(len(datasets), 1), len(metrics), squeeze=False)
    for row, dataset in zip(panels, datasets, strict=False):
        of_dataset = means.loc[means["dataset"] == dataset]
        for panel, (metric, title) in zip(row, metrics.items(), strict=True):
            for point in of_dataset.dropna(subset=["inference_ms", f"{metric}_mean"]).to_dict("records"):
                colour = _COLOURS[methods.index(point["method"]) % len(_COLOURS)]
                panel.errorbar(
                    point["inference_ms"],
                    100 * point[f"{metric}_mean"],
                    yerr=np.nan_to_num(100 * point[f"{metric}_std"]),
                    **{"fmt": "o", "markersize": 5, "capsize": 2, "color": colour, "label": point["method"]},
                )
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter(NullFormatter())  # its labels overlap within a decade
            panel.set_xlabel("ms per image")
            panel.set_title(f"{dataset}: {title} in %")
    _legend(figure, panels, loc="outside lower center", ncols=5)
    return figure


def history_figure(history: pd.DataFrame) -> Figure:
    """Learning curves, a panel per quantity: thin lines for categories, a thick one for their median."""
    known = ["dataset", "category", "method", "seed", "step", "seconds"]
    quantities = [name for name in history.select_dtypes("number").columns if name not in known]
    columns = min(3, len(quantities))
    rows = -(-len(quantities) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.5 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, quantity in zip(panels, quantities, strict=False):
        _learning_curves(panel, history, quantity)
    for panel in panels[len(quantities) :]:
        panel.set_visible(False)
    _legend(figure, panels, loc="outside upper right", ncols=5)
    return figure


def _legend(figure: Figure, panels: np.ndarray, **style: Any) -> None:
    """One legend for all panels."""
    drawn = {}
    for panel in panels.flat:
        drawn |= {label: line for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    if drawn:
        figure.legend(drawn.values(), drawn.keys(), **style)


def _learning_curves(panel: Axes, history: pd.DataFrame, quantity: str) -> None:
    for number, method in enumerate(history["method"].unique()):
        colour = _COLOURS[number % len(_COLOURS)]
        of_method = history.loc[history["method"] == method].dropna(subset=[quantity])
        curves = of_method.pivot_table(index="step", columns=["dataset", "category"], values=quantity)
        if curves.empty:
            continue  # a method need not record what another does
        panel.plot(curves.index, curves.to_numpy(), color=colour, linewidth=0.6, alpha=0.35)
        panel.plot(curves.index, curves.median(axis=1), color=colour, linewidth=2, label=method)
    panel.set_title(quantity)
    panel.set_xlabel("step")


def with_held_out(cell: Cell, scores: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Test images and held-out ones: columns image, one of `KINDS`, and image_score."""
    held_out = read_held_out(cell, workspace)
    parts = [
        pd.DataFrame({"image": np.take(kinds, rows["label"]), "image_score": rows["image_score"]})
        for rows, kinds in ((scores, KINDS[:2]), (held_out, KINDS[2:]))
    ]
    return pd.concat(parts, ignore_index=True)


def _history(cell: Cell, workspace: Workspace) -> pd.DataFrame:
    return read_history(cell, workspace)


def _labelled(cell: Cell, rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {"dataset": cell.dataset, "category": cell.category, "method": cell.method, "seed": cell.seed},
        index=rows.index,
    ).join(rows)


def _write_csv(path: Path, scores: dict[Cell, pd.DataFrame], plot: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    rows = [_labelled(cell, plot(of_cell)) for cell, of_cell in scores.items()]
    pd.concat(rows).to_csv(path, index=False, lineterminator="\n")


def save(figure: Figure, path: Path) -> None:
    """Write a figure: the same bytes for the same numbers."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
