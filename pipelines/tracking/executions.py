"""Executions of a benchmark, recorded in the workspace: which one trained each cell, which one reported.

Stages are separate processes, and each may be started alone. So an execution is not a process: it begins when a cell is
trained, and lasts, for the same commit and parameters, until its results are reported.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from clflow.config.params import Params
from clflow.files import read_json, write_json
from clflow.provenance import commit
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace


@dataclass(frozen=True)
class Execution:
    """One execution of a benchmark.

    Attributes:
        id: sorts by the time it began.
        began: milliseconds since 1970.
        commit: of the code.
        params: all of them, as JSON-able values.
        reported: its results were; what is trained from now on belongs to another.
    """

    id: str
    began: int
    commit: str
    params: dict[str, Any]
    reported: bool


class Executions:
    """The executions of a workspace."""

    def __init__(self, workspace: Workspace):
        self.folder = workspace.executions

    def train(self, cell: Cell, params: Params) -> Execution:
        """The current execution, recorded as the one that trains a cell."""
        with self.lock():
            execution = self._continued(params, may_be_reported=False) or self._begin(params)
            write_json(self._of_cell(cell), {"execution": execution.id})
        return execution

    def report(self, params: Params) -> Execution:
        """The execution that reports now; all its cells may be from earlier executions."""
        with self.lock():
            execution = self._continued(params, may_be_reported=True) or self._begin(params)
            return self._write(replace(execution, reported=True))

    def of_cell(self, cell: Cell) -> Execution | None:
        """The execution that trained a cell; None if another workspace trained it."""
        path = self._of_cell(cell)
        return self._read(read_json(path)["execution"]) if path.exists() else None

    def latest(self) -> Execution | None:
        """The latest execution, or None."""
        names = sorted(path.stem for path in (self.folder / "executions").glob("[!.]*.json"))
        return self._read(names[-1]) if names else None

    def lock(self) -> FileLock:
        """Lock for creating executions and their runs, each of which must exist once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "lock")

    def _continued(self, params: Params, may_be_reported: bool) -> Execution | None:
        last = self.latest()
        if last is None or (last.reported and not may_be_reported):
            return None
        # What the stages write may be tracked by git, so that the checkout is dirty for the later ones alone.
        same_commit = last.commit.removesuffix("-dirty") == commit().removesuffix("-dirty")
        return last if same_commit and last.params == params.model_dump(mode="json") else None

    def _begin(self, params: Params) -> Execution:
        now = datetime.now(UTC)
        id = f"{now:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}"
        return self._write(
            Execution(id, int(1000 * now.timestamp()), commit(), params.model_dump(mode="json"), reported=False)
        )

    def _of_cell(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.dataset / f"{cell.name}.json"

    def _path(self, id: str) -> Path:
        return self.folder / "executions" / f"{id}.json"

    def _read(self, id: str) -> Execution:
        return Execution(**read_json(self._path(id)))

    def _write(self, execution: Execution) -> Execution:
        write_json(self._path(execution.id), asdict(execution))
        return execution
