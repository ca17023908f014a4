"""The cells of a workspace, and how far each has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clflow.config.params import Params
from clflow.errors import ClflowError
from clflow.files import fingerprint
from pipelines.inventory.results import json_rows
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import Plan
from pipelines.workspace.results import (
    is_scored,
    is_trained,
    read_cell,
    read_failure,
    read_score_record,
    read_table,
    stored_cells,
)

State = Literal["planned", "failed", "trained", "scored", "leftover"]

COLUMNS = ("dataset", "category", "method", "seed", "state", "seconds", "name")


@dataclass(frozen=True)
class Entry:
    """A cell that is asked for, or one that is left over.

    Attributes:
        state: what is done; ``failed`` if its last training failed, ``leftover`` if nothing asks for it any more.
        seconds: that its training took, if it is trained.
        reason: why its training failed, if it did.
        folder: absolute path of what training left.
    """

    cell: Cell
    state: State
    seconds: float | None
    reason: str | None
    folder: str | None

    def row(self) -> dict[str, Any]:
        """It as JSON has it."""
        known = {"name": self.cell.name, **asdict(self.cell)}
        return known | {name: getattr(self, name) for name in ("state", "seconds", "reason", "folder")}


def entries(params: Params, datasets: Sequence[str], workspace: Workspace) -> list[Entry]:
    """The cells of some datasets in the order of the plan, and behind those of each what is left over of it.

    Raises:
        DataError, ParameterError, WeightsError: the plan cannot be made.
    """
    found = []
    for dataset in datasets:
        plan = Plan(params, dataset, workspace)
        found += [_entry(cell, _state(cell, plan), workspace) for cell in plan.cells]
        left = (cell for cell in stored_cells(dataset, workspace) if cell not in plan.trained)
        found += [_entry(cell, "leftover", workspace) for cell in left]
    return found


def find(name: str, params: Params, datasets: Sequence[str], workspace: Workspace) -> Entry:
    """The cell of a name, with or without its key; without it, one that is asked for.

    Raises:
        ClflowError: there is none, or several datasets have one.
        DataError, ParameterError, WeightsError: the plan cannot be made.
    """
    known = entries(params, datasets, workspace)
    found = [each for each in known if name == each.cell.name or (name == each.cell.stem and each.state != "leftover")]
    if not found:
        names = ", ".join(each.cell.stem for each in known[:5])
        raise ClflowError(f"there is no cell {name!r}; there is {names}, ... `clflow list cells` lists all.")
    if len(found) > 1:
        raise ClflowError(f"{name} is a cell of {' and '.join(each.cell.dataset for each in found)}; name a --dataset.")
    return found[0]


def describe(entry: Entry, params: Params, workspace: Workspace) -> dict[str, Any]:
    """A cell with what it was, or will be, made of, what its training recorded, its figures, and where its files lie.

    Keys are those of `Entry.row`, and ``paths``, ``figures`` (the row of cells.csv), ``record`` (what training noted)
    and ``inputs``; the values of what is not there yet are None.
    """
    cell = entry.cell
    record = read_cell(cell, workspace) if is_trained(cell, workspace) else None
    inputs = record["inputs"] if record else Plan(params, cell.dataset, workspace).trained[cell]
    paths = {"run": workspace.run(cell), "scores": workspace.score(cell), "log": workspace.log(cell.name)}
    return {
        **entry.row(),
        "paths": {name: str(path) if path.exists() else None for name, path in paths.items()},
        "figures": _figures(cell, workspace),
        "record": record and {name: value for name, value in record.items() if name not in ("inputs", *asdict(cell))},
        "inputs": inputs,
    }


def _entry(cell: Cell, state: State, workspace: Workspace) -> Entry:
    trained = is_trained(cell, workspace)
    seconds = read_cell(cell, workspace)["train_seconds"] if trained else None
    reason = read_failure(cell, workspace) if state == "failed" else None
    return Entry(cell, state, seconds, reason, str(workspace.run(cell)) if trained else None)


def _state(cell: Cell, plan: Plan) -> State:
    if not is_trained(cell, plan.workspace):
        return "planned" if read_failure(cell, plan.workspace) is None else "failed"
    if not is_scored(cell, plan.workspace):
        return "trained"
    key = read_score_record(cell, plan.workspace)["score_key"]
    return "scored" if key == fingerprint(plan.scored[cell]) else "trained"


def _figures(cell: Cell, workspace: Workspace) -> dict[str, Any] | None:
    """The cell's row of cells.csv, without what names the cell."""
    if not workspace.cells_table.exists():
        return None
    table = read_table(workspace.cells_table)
    rows = table.loc[(table["dataset"] == cell.dataset) & (table["key"] == cell.key)].drop(columns=[*asdict(cell)])
    return next(iter(json_rows(rows)), None)
