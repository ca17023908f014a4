"""The leaderboard of a workspace, and rows of tables as JSON has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import read_table

COLUMNS = (
    *("dataset", "category", "method", "n_seeds", "image_auroc_mean", "image_auroc_std"),
    *("aupro_30_mean", "pixel_auroc_mean", "false_alarms", "misses"),
)


def leaderboard(datasets: Sequence[str], workspace: Workspace) -> list[dict[str, Any]]:
    """The rows of leaderboard.csv of some datasets.

    Raises:
        DataError: nothing is aggregated yet.
    """
    table = read_table(workspace.leaderboard_table)
    return json_rows(table.loc[table["dataset"].isin(list(datasets))])


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table; what is empty is None."""
    text = table.to_json(orient="records", double_precision=15)
    assert text is not None, "no file was named"
    return json.loads(text)
