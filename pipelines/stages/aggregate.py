"""Stage `aggregate`: the tables of all metrics, from the stored scores of the cells that the plan lists."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from clflow.config.params import Params
from clflow.errors import CellError
from clflow.files import fingerprint, write_atomically, write_json
from pipelines.reporting.tables import dataset_means, leaderboard, measure
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import plan_cells
from pipelines.workspace.results import is_scored


def run(params: Params, workspace: Workspace, allow_missing: bool = False) -> pd.DataFrame:
    """Aggregate all cells that the parameters ask for; see `aggregate`."""
    return aggregate(plan_cells(params, workspace), params, workspace, allow_missing)


def aggregate(planned: list[Cell], params: Params, workspace: Workspace, allow_missing: bool = False) -> pd.DataFrame:
    """Write reports/{cells.csv, pro.csv, leaderboard.csv, metrics.json, protocol.json} and return the leaderboard.

    Raises:
        CellError: a cell is missing (with ``allow_missing``: all are), or one has no computable metrics.
    """
    scored = [cell for cell in planned if is_scored(cell, workspace)]
    if len(scored) < len(planned) and not (allow_missing and scored):
        raise CellError(_missing_sentence([cell for cell in planned if cell not in scored], len(planned)))
    measured = measure(scored, params.protocol, workspace)
    board = leaderboard(measured.cells, planned)
    protocol = params.protocol.model_dump(mode="json")
    _write_csv(workspace.cells_table, measured.cells)
    _write_csv(workspace.pro_table, measured.pro)
    _write_csv(workspace.leaderboard_table, board)
    write_json(workspace.metrics, dataset_means(board))
    write_json(workspace.protocol, {"hash": fingerprint(protocol), "protocol": protocol})
    return board


def _missing_sentence(missing: list[Cell], planned: int) -> str:
    shown = ", ".join(f"{cell.dataset}/{cell.name}" for cell in missing[:10])
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return (
        f"{len(missing)} of {planned} cells have no scores: {shown}{more}; "
        "train and evaluate them, or allow an incomplete table."
    )


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with write_atomically(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
