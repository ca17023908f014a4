"""From stored scores to tables: one row per cell, and the leaderboard of means and standard deviations.

Nothing computed elsewhere is trusted: every metric is recomputed from scores.csv, maps.npy and the masks. A
defective image without a mask counts for the image metrics but is left out of the pixel metrics; where no
defective image has a mask, the pixel metrics are empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clflow.config.params import Params
from clflow.config.schema import Protocol
from clflow.data.images import read_mask
from clflow.data.manifest import category_rows, read_manifest
from clflow.errors import CellError, DataError
from clflow.files import fingerprint, read_json, write_atomically, write_json
from clflow.metrics import METRICS, PixelCounts, Truth, image_metrics
from clflow.score import upsample
from pipelines.workspace import cells
from pipelines.workspace.cells import Cell

COSTS = ("train_seconds", "params_added", "inference_ms")
"""What a cell costs: its training, the trainable parameters beyond the backbone's, and the milliseconds per test image
from pixels to scores, in the batches of the evaluation and beside whatever else ran."""
MEAN = "mean"
"""What stands in place of a category in the leaderboard's rows over all categories of a dataset."""

CELL_COLUMNS = (
    *("dataset", "category", "method", "seed", "train_images"),
    *METRICS,
    *COSTS,
    *("key", "commit", "data_hash", "tuned"),
)
LEADERBOARD_COLUMNS = (
    *("dataset", "category", "method", "n_seeds"),
    *(f"{metric}_{statistic}" for metric in METRICS for statistic in ("mean", "std")),
    *COSTS,
)

_TRUTH = ["path", "label", "mask"]
_BATCH = 16

# Category "01" and a key of digits only are no numbers.
_TEXT: dict[Any, Any] = dict.fromkeys(("dataset", "category", "method", "key", "commit", "data_hash"), str)


def run(params: Params, workspace: Path, allow_missing: bool = False) -> pd.DataFrame:
    """Aggregate all cells that the parameters ask for; see `aggregate`."""
    return aggregate(cells.plan(params, workspace), params, workspace, allow_missing)


def aggregate(planned: list[Cell], params: Params, workspace: Path, allow_missing: bool = False) -> pd.DataFrame:
    """Write reports/{cells.csv, leaderboard.csv, metrics.json, protocol.json} and return the leaderboard.

    Raises:
        CellError: a cell is missing (with ``allow_missing``: all are), or one has no computable metrics.
    """
    scored = [cell for cell in planned if is_scored(cell, workspace)]
    if len(scored) < len(planned) and not (allow_missing and scored):
        raise CellError(_missing_sentence([cell for cell in planned if cell not in scored], len(planned)))
    table = pd.DataFrame(_measure(scored, params.protocol, workspace))
    table = table.loc[:, list(CELL_COLUMNS)]
    board = leaderboard(table, planned)
    reports = workspace / "reports"
    protocol = params.protocol.model_dump(mode="json")
    _write_csv(reports / "cells.csv", table)
    _write_csv(reports / "leaderboard.csv", board)
    write_json(reports / "metrics.json", _dataset_means(board))
    write_json(reports / "protocol.json", {"hash": fingerprint(protocol), "protocol": protocol})
    return board


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
            by_seed = _of(method, of_dataset).loc[:, ["seed", *METRICS, *COSTS]].groupby("seed")
            complete = by_seed.size() == len(categories)
            rows.append(_row(dataset, MEAN, method, by_seed.mean(skipna=False).loc[complete]))
    board = pd.DataFrame(rows, columns=list(LEADERBOARD_COLUMNS))
    return board.loc[(board["n_seeds"] > 0) | (board["category"] == MEAN)].reset_index(drop=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read cells.csv or leaderboard.csv.

    Raises:
        DataError: it does not exist.
    """
    try:
        return pd.read_csv(path, dtype=_TEXT, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; aggregate the scores first.") from None


def cells_of(table: pd.DataFrame) -> list[Cell]:
    """The cells that the rows of cells.csv describe."""
    columns = [field.name for field in fields(Cell)]
    return [Cell(*row) for row in table.loc[:, columns].itertuples(index=False)]


def is_scored(cell: Cell, workspace: Path) -> bool:
    """Whether a cell is trained and its test images are scored."""
    trained = cells.is_complete(workspace / "runs" / cell.dataset / cell.name, cell.key)
    return trained and cells.is_complete(scores_folder(cell, workspace), cell.key, cells.SCORED)


def scores_folder(cell: Cell, workspace: Path) -> Path:
    """Where a cell's scores are stored."""
    return workspace / "scores" / cell.dataset / cell.name


def read_scores(cell: Cell, workspace: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """The stored scores of a cell: scores.csv and, row by row, maps float32 (N, h, w), mapped from disk.

    Raises:
        CellError: the two are not of one length.
    """
    folder = scores_folder(cell, workspace)
    scores = pd.read_csv(folder / "scores.csv", dtype=str, keep_default_na=False)
    maps = np.load(folder / "maps.npy", mmap_mode="r", allow_pickle=False)
    if len(scores) != len(maps):
        raise CellError(f"{folder} holds {len(scores)} scores but {len(maps)} maps; evaluate the cell again.")
    return scores.astype({"label": int, "image_score": float}), maps


def read_cell(cell: Cell, workspace: Path) -> dict[str, Any]:
    """What training recorded of a cell, cell.json."""
    return read_json(workspace / "runs" / cell.dataset / cell.name / "cell.json")


def _missing_sentence(missing: list[Cell], planned: int) -> str:
    shown = ", ".join(f"{cell.dataset}/{cell.name}" for cell in missing[:10])
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return (
        f"{len(missing)} of {planned} cells have no scores: {shown}{more}; "
        "train and evaluate them, or allow an incomplete table."
    )


def _measure(scored: list[Cell], protocol: Protocol, workspace: Path) -> list[dict[str, Any]]:
    groups = [list(group) for _, group in groupby(scored, key=lambda cell: (cell.dataset, cell.category))]
    return [row for group in groups for row in _measure_category(group, protocol, workspace)]


def _measure_category(group: list[Cell], protocol: Protocol, workspace: Path) -> list[dict[str, Any]]:
    """The rows of all cells of one category, which share its masks; a few images at a time."""
    dataset = workspace / "data" / group[0].dataset
    test = category_rows(read_manifest(dataset), group[0].category, "test")
    scored: dict[Cell, tuple[dict[str, float], np.ndarray, PixelCounts]] = {}
    for cell in group:
        with _named(cell):
            scores, maps = read_scores(cell, workspace)
            if not scores.loc[:, _TRUTH].equals(test.loc[:, _TRUTH]):
                raise DataError("its scores are of other test images than the manifest lists; evaluate it again.")
            image = image_metrics(scores["label"].to_numpy(), scores["image_score"].to_numpy())
            scored[cell] = image, maps, PixelCounts.spanning(maps)
    has_masks = bool((test["mask"] != "").any())
    if has_masks:
        with_truth = np.flatnonzero((test["label"] == 0) | (test["mask"] != ""))
        for start in range(0, len(with_truth), _BATCH):
            batch = with_truth[start : start + _BATCH]
            truth = Truth(_masks(dataset, test["mask"].iloc[batch], protocol))
            for cell, (_, maps, counts) in scored.items():
                with _named(cell):
                    counts.add(truth, upsample(maps[batch], protocol.map_size))
    rows = []
    for cell, (metrics, _, counts) in scored.items():
        with _named(cell):
            metrics |= counts.metrics() if has_masks else {}
        recorded = read_cell(cell, workspace) | read_json(scores_folder(cell, workspace) / cells.SCORED)
        rows.append(
            asdict(cell)
            | {metric: metrics.get(metric, np.nan) for metric in METRICS}
            | {name: recorded[name] for name in (*COSTS, "commit", "data_hash", "tuned")}
        )
    return rows


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


def _row(dataset: str, category: str, method: str, values: pd.DataFrame) -> dict[str, Any]:
    """One row of the leaderboard from one row of values per seed; a missing value makes its mean missing."""
    row: dict[str, Any] = {"dataset": dataset, "category": category, "method": method, "n_seeds": len(values)}
    for metric in METRICS:
        row[f"{metric}_mean"] = values[metric].mean(skipna=False)
        row[f"{metric}_std"] = values[metric].std(ddof=1, skipna=False)
    return row | {cost: values[cost].mean() for cost in COSTS}


def _dataset_means(board: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Nested as ``dvc metrics show`` prints it, to six decimals: dataset, method, metric."""
    tree: dict[str, dict[str, dict[str, float]]] = {}
    for _, row in board.loc[board["category"] == MEAN].iterrows():
        means = {metric: row[f"{metric}_mean"] for metric in METRICS}
        tree.setdefault(row["dataset"], {})[row["method"]] = {
            metric: round(mean, 6) for metric, mean in means.items() if not np.isnan(mean)
        }
    return tree


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with write_atomically(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
