"""From stored scores to tables: one row per cell, its PRO curve, and the leaderboard of means and deviations.

Nothing computed elsewhere is trusted: every metric is recomputed from scores.csv, maps.npy and the masks. A
defective image without a mask counts for the image metrics but is left out of the pixel metrics. What the test
images of a category do not give is empty: metrics of images without normal and defective ones, metrics of pixels
without any mask, and the rates of a class without images. Means are over the categories that have a figure, and
say over how many.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

from clflow.calibration import Rank
from clflow.data.images import read_mask
from clflow.data.manifest import category_rows, read_manifest
from clflow.errors import CellError, DataError
from clflow.metrics import AUPRO_LIMITS, METRICS, PixelCounts, Truth, image_metrics
from clflow.pro import pro_curve
from clflow.rates import AT_THRESHOLD, rates_at
from clflow.score import upsample
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import (
    AVERAGED,
    CALIBRATION,
    CELL_COLUMNS,
    COSTS,
    HARDWARE,
    MEAN,
    TEST_IMAGES,
    count_images,
    has_both_classes,
    read_cell,
    read_held_out,
    read_score_record,
    read_scores,
)

if TYPE_CHECKING:
    from clflow.config.schema import Protocol

LEADERBOARD_COLUMNS = (
    *("dataset", "category", "method", "n_seeds", *AVERAGED),
    *(f"{metric}_{statistic}" for metric in METRICS for statistic in ("mean", "std")),
    *AT_THRESHOLD,
    *COSTS,
)

PRO_COLUMNS = ("dataset", "category", "method", "seed", "fpr", "overlap")

_TRUTH = ["path", "label", "mask"]
_PRO_LIMIT, _PRO_POINTS = AUPRO_LIMITS["aupro_30"], 61
_BATCH = 16


@dataclass(frozen=True)
class Tables:
    """What is measured of cells.

    Attributes:
        cells: a row with `CELL_COLUMNS` for each cell, in their order.
        pro: the curve of each cell that has pixel metrics, with `PRO_COLUMNS`; see `clflow.pro.pro_curve`.
    """

    cells: pd.DataFrame
    pro: pd.DataFrame


def measure(scored: list[Cell], protocol: Protocol, workspace: Workspace) -> Tables:
    """Measure scored cells.

    Raises:
        CellError: a cell has no computable metrics.
    """
    groups = [list(group) for _, group in groupby(scored, key=lambda cell: (cell.dataset, cell.category))]
    measured = [of_cell for group in groups for of_cell in _measure_category(group, protocol, workspace)]
    cells = pd.DataFrame([row for row, _ in measured]).loc[:, list(CELL_COLUMNS)]
    curves = [curve for _, curve in measured if curve is not None]
    return Tables(cells, pd.concat(curves) if curves else pd.DataFrame(columns=list(PRO_COLUMNS)))


def leaderboard(table: pd.DataFrame, planned: list[Cell]) -> pd.DataFrame:
    """Mean and standard deviation over seeds, per category and over the categories of each dataset.

    The rows of category "mean" average the categories of each seed first, so their deviation is that of the
    dataset's number between seeds; a seed that lacks a planned category has no such number and is left out.
    The deviation is the sample's (divided by n - 1), so it is empty for a single seed.

    Args:
        table: rows with `CELL_COLUMNS`.
        planned: all cells that were asked for, in the order of the rows.
    """
    rows = []
    methods = list(dict.fromkeys(cell.method for cell in planned))
    for dataset in dict.fromkeys(cell.dataset for cell in planned):
        categories = list(dict.fromkeys(cell.category for cell in planned if cell.dataset == dataset))
        of_dataset = table.loc[table["dataset"] == dataset]
        for category in categories:
            of_category = of_dataset.loc[of_dataset["category"] == category]
            rows += [_row(dataset, category, method, _of(method, of_category)) for method in methods]
        for method in methods:
            cells = _of(method, of_dataset)
            complete = cells.groupby("seed")["category"].transform("size") == len(categories)
            rows.append(_row(dataset, MEAN, method, cells.loc[complete]))
    board = pd.DataFrame(rows, columns=list(LEADERBOARD_COLUMNS))
    return board.loc[(board["n_seeds"] > 0) | (board["category"] == MEAN)].reset_index(drop=True)


def _measure_category(
    group: list[Cell], protocol: Protocol, workspace: Workspace
) -> list[tuple[dict[str, Any], pd.DataFrame | None]]:
    """The row and the PRO curve of all cells of one category, which share its masks."""
    dataset = workspace.data(group[0].dataset)
    test = category_rows(read_manifest(dataset), group[0].category, "test")
    scored: dict[Cell, tuple[pd.DataFrame, np.ndarray]] = {}
    for cell in group:
        with _named(cell):
            scored[cell] = read_scores(cell, workspace)
            if not scored[cell][0].loc[:, _TRUTH].equals(test.loc[:, _TRUTH]):
                raise DataError("its scores are of other test images than the manifest lists; evaluate it again.")
    counted = _count_pixels({cell: maps for cell, (_, maps) in scored.items()}, test, dataset, protocol)
    measured = []
    for cell, (scores, _) in scored.items():
        labels, image_scores = scores["label"].to_numpy(), scores["image_score"].to_numpy()
        recorded = read_cell(cell, workspace) | {"inference_ms": _inference_ms(cell, workspace)}
        with _named(cell):
            metrics = image_metrics(labels, image_scores) if has_both_classes(scores) else {}
            metrics |= counted[cell].metrics() if cell in counted else {}
            rates = rates_at(recorded["image_threshold"], labels, image_scores)
        row = (
            asdict(cell)
            | dict(zip(TEST_IMAGES, count_images(test), strict=True))
            | {metric: metrics.get(metric, np.nan) for metric in METRICS}
            | rates
            | _calibration(cell, image_scores[labels == 0], workspace)
            | {name: recorded[name] for name in (*COSTS, "commit", "data_hash", "tuned", *HARDWARE)}
        )
        measured.append((row, _pro(cell, counted[cell]) if cell in counted else None))
    return measured


def _pro(cell: Cell, counts: PixelCounts) -> pd.DataFrame:
    rates, overlaps = pro_curve(counts, _PRO_LIMIT, _PRO_POINTS)
    named = {name: getattr(cell, name) for name in PRO_COLUMNS[:4]}
    return pd.DataFrame({**named, "fpr": rates.round(6), "overlap": overlaps.round(5)})


def _calibration(cell: Cell, normal_scores: np.ndarray, workspace: Workspace) -> dict[str, float]:
    """The values of `CALIBRATION`, from what training recorded and the image scores of normal test images."""
    recorded, held_out = read_cell(cell, workspace), read_held_out(cell, workspace)
    reference = held_out.loc[held_out["label"] == 0, "image_score"].to_numpy()
    test: Any = ks_2samp(normal_scores, reference) if len(normal_scores) else None
    shift = np.nan if test is None else float(test.pvalue)
    rank = Rank.of_rate(recorded["expected_false_alarm_rate"], recorded["calibration_images"])
    return dict(zip(CALIBRATION, (rank.images, rank.rate, *rank.interval(), shift), strict=True))


def _count_pixels(
    maps: dict[Cell, np.ndarray], test: pd.DataFrame, dataset: Path, protocol: Protocol
) -> dict[Cell, PixelCounts]:
    """Pixels of cells, counted from their maps of the test images, a few images at a time; none without any mask."""
    if set(test["mask"].tolist()) <= {""}:
        return {}
    counted: dict[Cell, PixelCounts] = {}
    for cell in maps:
        with _named(cell):
            counted[cell] = PixelCounts.spanning(maps[cell])
    with_truth = np.flatnonzero((test["label"] == 0) | (test["mask"] != ""))
    for start in range(0, len(with_truth), _BATCH):
        batch = with_truth[start : start + _BATCH]
        truth = Truth(_masks(dataset, test["mask"].iloc[batch], protocol))
        for cell, counts in counted.items():
            with _named(cell):
                counts.add(truth, upsample(maps[cell][batch], protocol.map_size))
    return counted


def _inference_ms(cell: Cell, workspace: Workspace) -> float:
    measured = read_score_record(cell, workspace)["inference_ms"]
    return np.nan if measured is None else measured


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """Say which cell it is whose metrics cannot be computed."""
    try:
        yield
    except (ValueError, OSError, DataError) as error:
        name = f"{cell.dataset}/{cell.name}"
        raise CellError(f"The metrics of cell {name} cannot be computed: {error}") from error


def _masks(dataset: Path, files: pd.Series, protocol: Protocol) -> np.ndarray:
    """Bool (N, map_size, map_size); a normal image, which has no file, has nothing defective."""
    size = protocol.map_size
    masks = np.zeros((len(files), size, size), bool)
    for mask, file in zip(masks, files, strict=True):
        if file:
            mask[:] = read_mask(dataset / file, size, protocol.mask_threshold)
    return masks


def _of(method: str, table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[table["method"] == method]


def _row(dataset: str, category: str, method: str, cells: pd.DataFrame) -> dict[str, Any]:
    """One row of the leaderboard from rows of cells.csv: each seed's mean over the categories that have a figure."""
    values = cells.loc[:, ["seed", *METRICS, *AT_THRESHOLD, *COSTS]].groupby("seed").mean()
    row: dict[str, Any] = {"dataset": dataset, "category": category, "method": method, "n_seeds": len(values)}
    for column, figure in AVERAGED.items():
        row[column] = cells.loc[cells[figure].notna(), "category"].nunique()
    for metric in METRICS:
        row[f"{metric}_mean"] = values[metric].mean()
        row[f"{metric}_std"] = values[metric].std(ddof=1)
    return row | {name: values[name].mean() for name in (*AT_THRESHOLD, *COSTS)}


def dataset_means(board: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Nested as ``dvc metrics show`` prints it, to six decimals: dataset, method, figure."""
    tree: dict[str, dict[str, dict[str, float]]] = {}
    for _, row in board.loc[board["category"] == MEAN].iterrows():
        means = {metric: row[f"{metric}_mean"] for metric in METRICS} | {name: row[name] for name in AT_THRESHOLD}
        figures: dict[str, float] = {name: round(mean, 6) for name, mean in means.items() if not np.isnan(mean)}
        figures |= {name: int(row[name]) for name in AVERAGED}
        tree.setdefault(row["dataset"], {})[row["method"]] = figures
    return tree
