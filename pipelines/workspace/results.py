"""The reader of stored results: tables, and what training and evaluation left of a cell."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clflow.errors import CellError, DataError
from clflow.files import read_json
from clflow.metrics import METRICS
from clflow.rates import AT_THRESHOLD, RATES
from pipelines.workspace.cells import EVAL_SCORES, MARKER, SCORED, Cell, is_complete
from pipelines.workspace.paths import Workspace

COSTS = ("train_seconds", "params_added", "inference_ms")
"""What a cell costs: its training, the trainable parameters beyond the backbone's, and, if there are any, the
milliseconds per test image from pixels to scores, in the batches of the evaluation and beside whatever else ran."""

TEST_IMAGES = ("test_good", "test_defective", "test_masks")
"""How many test images a category has: normal ones, defective ones, and masks of these."""

EXPECTED = ("expected_false_alarms", "expected_false_alarms_lower", "expected_false_alarms_upper")
"""The false alarm rate that a threshold keeps on images like those that it was calibrated on, with the bounds between
which it lies with 95 %, given these images."""

CALIBRATION = ("calibration_images", *EXPECTED, "shift_p")
"""Of the stored threshold: how many normal images it was calibrated on, what it keeps, and the p-value of a two-sample
Kolmogorov-Smirnov test of whether normal test images score like these."""

HARDWARE = ("device", "arithmetic")
"""What trained a cell: the device, and the precision of the flow's subnetworks while training."""

MEAN = "mean"
"""What stands in place of a category in the leaderboard's rows over all categories of a dataset."""

AVERAGED = {
    "image_categories": "image_auroc",
    "pixel_categories": "pixel_auroc",
    **{f"{rate}_categories": rate for rate in RATES},
}
"""Columns of the leaderboard that say over how many categories a kind of figure is averaged (0 or 1 in the row of a
category), each with a figure of that kind."""

CELL_COLUMNS = (
    *("dataset", "category", "method", "seed", "train_images", *TEST_IMAGES),
    *METRICS,
    *AT_THRESHOLD,
    *CALIBRATION,
    *COSTS,
    *("key", "commit", "data_hash", "tuned"),
    *HARDWARE,
)

# Category "01" and a key of digits only are no numbers.
_TEXT: dict[Any, Any] = dict.fromkeys(("dataset", "category", "method", "key", "commit", "data_hash"), str)


def read_table(path: Path) -> pd.DataFrame:
    """Read cells.csv, pro.csv or leaderboard.csv.

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


def is_trained(cell: Cell, workspace: Workspace) -> bool:
    """Whether a cell is trained."""
    return is_complete(workspace.run(cell), cell.key)


def is_scored(cell: Cell, workspace: Workspace) -> bool:
    """Whether a cell is trained and its test images are scored."""
    return is_trained(cell, workspace) and is_complete(workspace.score(cell), cell.key, SCORED)


def stored_cells(dataset: str, workspace: Workspace) -> list[Cell]:
    """All trained cells of a dataset, whether they are asked for or not, by name."""
    records = [read_json(path) for path in sorted(workspace.runs(dataset).glob(f"[!.]*/{MARKER}"))]
    return [Cell(**{field.name: record[field.name] for field in fields(Cell)}) for record in records]


def read_failure(cell: Cell, workspace: Workspace) -> str | None:
    """Why the last training of a cell failed; None if none did, or it goes on."""
    path = workspace.failure(cell)
    return read_json(path)["reason"] if path.exists() else None


def read_cell(cell: Cell, workspace: Workspace) -> dict[str, Any]:
    """What training recorded of a cell."""
    return read_json(workspace.run(cell) / MARKER)


def read_history(cell: Cell, workspace: Workspace) -> pd.DataFrame:
    """The learning curves of a cell: a row per evaluation."""
    return pd.read_csv(workspace.run(cell) / "history.csv")


def read_held_out(cell: Cell, workspace: Workspace) -> pd.DataFrame:
    """``label`` and ``image_score`` of held-out normal images and synthetic anomalies."""
    return pd.read_csv(workspace.run(cell) / "held_out.csv")


def read_score_record(cell: Cell, workspace: Workspace) -> dict[str, Any]:
    """What evaluation recorded of a cell's scores."""
    return read_json(workspace.score(cell) / SCORED)


def read_scores(cell: Cell, workspace: Workspace) -> tuple[pd.DataFrame, np.ndarray]:
    """The stored scores of a cell: scores.csv and, row by row, maps float32 (N, h, w), mapped from disk.

    Raises:
        CellError: the two are not of one length.
    """
    folder = workspace.score(cell)
    scores = pd.read_csv(folder / "scores.csv", dtype=str, keep_default_na=False)
    maps = np.load(folder / "maps.npy", mmap_mode="r", allow_pickle=False)
    if len(scores) != len(maps):
        raise CellError(f"{folder} holds {len(scores)} scores but {len(maps)} maps; evaluate the cell again.")
    return scores.astype({"label": int, "image_score": float}), maps


def has_both_classes(scores: pd.DataFrame) -> bool:
    """Whether some of the scored images are normal and some defective, without which there are no image metrics."""
    return set(scores["label"].tolist()) == {0, 1}


def count_images(rows: pd.DataFrame) -> tuple[int, int, int]:
    """How many images (rows of a manifest or of scores) are normal, how many defective, and how many have a mask."""
    labels, masks = rows["label"].to_numpy(), rows["mask"].to_numpy()
    return int((labels == 0).sum()), int((labels == 1).sum()), int((masks != "").sum())


def missing_images(good: int, defective: int, masks: int) -> str:
    """What a test set lacks, in words, so that some figures do not exist; empty if nothing."""
    if not (good or defective):
        return "no test images"
    if not defective:
        return "no defective test images"
    lacks = {"no normal test images": good, "no masks": masks}
    return " and ".join(words for words, count in lacks.items() if not count)


def read_eval_scores(cell: Cell, workspace: Workspace) -> pd.DataFrame | None:
    """Image scores by the weights of each evaluation, a column per step; None where they were not kept."""
    path = workspace.score(cell) / EVAL_SCORES
    return pd.read_csv(path) if path.exists() else None
