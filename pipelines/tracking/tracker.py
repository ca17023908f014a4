"""Logging to MLflow: at once while it can be reached, and later by ``clflow sync``.

A cell's folder is its record, which MLflow mirrors. So nothing here fails a training: a cell that MLflow refuses, and a
server that does not answer, is one warning. Everything is looked up before it is logged, so `Tracker.sync` is
idempotent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image

from clflow.config.params import Params
from clflow.errors import ClflowError
from pipelines.search.study import Record, Search
from pipelines.tracking.benchmark_runs import BenchmarkRuns
from pipelines.tracking.cell_runs import CellRuns
from pipelines.tracking.executions import Execution, Executions
from pipelines.tracking.runs import Runs
from pipelines.tracking.search_runs import SearchRuns
from pipelines.tracking.server import is_down, reason, tracking_uri
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import is_trained

_log = logging.getLogger(__name__)


class Tracker:
    """Logs the cells of a workspace, and records what could not be logged.

    Attributes:
        uri: of the MLflow server.
        experiment: id of the experiment, if the server answered.
        down: why it does not work, if it does not.
        failed: what is not logged, and why; cells by their names.
    """

    def __init__(self, params: Params, workspace: Workspace):
        self.params = params
        self.workspace = workspace
        self.uri = tracking_uri(workspace)
        self.experiment: str | None = None
        self.down: str | None = None
        self.failed: dict[str, str] = {}
        self._training: dict[Cell, Execution] = {}

    @classmethod
    def connect(cls, params: Params, workspace: Workspace) -> Tracker:
        """Open the server that MLFLOW_TRACKING_URI names, else a database in the workspace; `down` says if it fails."""
        tracker = cls(params, workspace)
        tracker._open()
        return tracker

    def log_point(self, cell: Cell, point: dict[str, float]) -> None:
        """Log one point of a cell's learning curves while it trains."""
        execution = self._execution(cell)
        if cell.name not in self.failed:
            self._attempt(cell.name, lambda: self._cells.log_point(cell, execution, point))

    def log_training(self, cell: Cell, workspace: Workspace) -> None:
        """Log a cell that has just been trained."""
        self._execution(cell)
        self._attempt(cell.name, lambda: self._cells.log_training(cell, workspace))

    def log_failure(self, cell: Cell, log: Path) -> None:
        """Mark the run of a cell that could not be trained as failed, with its log."""
        execution = self._execution(cell)
        self._attempt(cell.name, lambda: self._cells.log_failure(cell, execution, log))

    def sync(self, wanted: Iterable[Cell], workspace: Workspace) -> None:
        """Log all cells that are trained and not logged; a server that was down is tried again."""
        if self.down:
            self._open()
        for cell in wanted:
            if is_trained(cell, workspace):
                self._attempt(cell.name, lambda cell=cell: self._cells.log_training(cell, workspace))

    def sync_results(
        self, metrics: Iterable[tuple[Cell, dict[str, float]]], picture: Callable[[Cell], Image.Image]
    ) -> None:
        """Log the metrics of cells, each with a picture, and reports/ as the results of the latest execution, unless
        they are logged. The trainings of the cells come first, by `sync`."""
        for cell, values in metrics:
            if is_trained(cell, self.workspace) and cell.name not in self.failed:
                self._attempt(
                    cell.name,
                    lambda cell=cell, values=values: self._cells.log_results(cell, values, self.workspace, picture),
                )
        executions = Executions(self.workspace)
        execution = executions.latest() or executions.report(self.params)
        self._attempt(f"benchmark {self.params.benchmark.name}", lambda: self._benchmarks.log_results(execution))

    def log_trial(self, search: Search, record: Record) -> None:
        """Log a trial that has ended, unless it is logged, as a child of its search's run."""
        name = f"trial {record.number} of {search.name}"
        self._attempt(name, lambda: SearchRuns(self._runs).log_trial(search, record))

    def sync_search(self, search: Search) -> None:
        """Log all trials of a search that are not logged."""
        for record in search.records():
            self.log_trial(search, record)

    def require(self) -> None:
        """Raise unless everything was logged.

        Raises:
            ClflowError: the server does not work, or refused something.
        """
        if self.down:
            raise ClflowError(
                f"MLflow at {self.uri} does not work ({self.down}); start it or correct MLFLOW_TRACKING_URI."
            )
        if self.failed:
            refused = "; ".join(f"{name} ({why})" for name, why in self.failed.items())
            raise ClflowError(f"not logged to MLflow at {self.uri}: {refused}; mend that and run `clflow sync`.")

    def _open(self) -> None:
        self.down = None
        try:
            self._client = MlflowClient(self.uri, self.uri)
            self._runs = Runs.open(self._client, self.params.tracking.experiment, self._artifacts())
        except Exception as error:  # whatever it is: without an experiment, nothing can be logged
            self._give_up(error)
            return
        self.experiment = self._runs.experiment
        self._benchmarks = BenchmarkRuns(self._runs, self.workspace)
        self._cells = CellRuns(self._runs, self._benchmarks)

    def _artifacts(self) -> str | None:
        """Where a new experiment keeps its artifacts; a server decides for itself."""
        return self.workspace.mlflow_artifacts.as_uri() if self.uri.startswith("sqlite:") else None

    def _execution(self, cell: Cell) -> Execution:
        """The execution that trains a cell now. It is noted even while nothing can be logged."""
        if cell not in self._training:
            self._training[cell] = Executions(self.workspace).train(cell, self.params)
        return self._training[cell]

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        """Call ``action``; record its error under ``name``, or that the server is down."""
        if self.down:
            return
        try:
            action()
        except Exception as error:  # MLflow, SQLAlchemy, requests and object stores each raise their own
            if is_down(error, self._client):
                self._give_up(error)
                return
            if name not in self.failed:
                _log.warning(
                    "%s is not logged to MLflow (%s); its results are on disk, run `clflow sync` when that is mended.",
                    name,
                    reason(error),
                )
            self.failed[name] = reason(error)
        else:
            self.failed.pop(name, None)

    def _give_up(self, error: Exception) -> None:
        self.down = reason(error)
        _log.warning(
            "MLflow at %s does not work (%s); all results are on disk, run `clflow sync` when it is back.",
            self.uri,
            self.down,
        )
