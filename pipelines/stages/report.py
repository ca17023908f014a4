"""Stage `report`: what a person reads, and the results in MLflow."""

from __future__ import annotations

import logging
import os
import shlex

from clflow.config.params import Params
from clflow.metrics import METRICS
from clflow.rates import AT_THRESHOLD
from pipelines.reporting import gallery
from pipelines.reporting.pages import write_pages
from pipelines.tracking.executions import Executions
from pipelines.tracking.server import runs_page
from pipelines.tracking.tracker import Tracker
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import cells_of, read_table

_log = logging.getLogger(__name__)


def run(params: Params, workspace: Workspace) -> None:
    """Write the pages; see `write_pages`."""
    write_pages(params, workspace)


def publish(params: Params, workspace: Workspace) -> None:
    """Bring the reported results to MLflow, as those of this execution of the benchmark."""
    Executions(workspace).report(params)
    tracker = sync(params, cells_of(read_table(workspace.cells_table)), workspace)
    _log.info("Every run: %s", where_runs_are(tracker, workspace))


def where_runs_are(tracker: Tracker, workspace: Workspace) -> str:
    """How to open MLflow's page of the runs."""
    if tracker.experiment is None:
        return "in MLflow, once it is back and has all by `clflow sync`"
    if tracker.uri.startswith("http"):
        return runs_page(tracker.uri, tracker.experiment)
    store = '"$MLFLOW_TRACKING_URI"' if os.environ.get("MLFLOW_TRACKING_URI") else "sqlite:///mlflow.db"
    page = runs_page("http://127.0.0.1:5000", tracker.experiment)
    return f"cd {shlex.quote(str(workspace.root))} && mlflow ui --backend-store-uri {store}, then open {page}"


def sync(params: Params, wanted: list[Cell], workspace: Workspace) -> Tracker:
    """Bring to MLflow what it does not have of the cells that are trained, and of the results that are reported.

    Without test images, a cell has no results.
    """
    tracker = Tracker.connect(params, workspace)
    tracker.sync(wanted, workspace)
    if workspace.cells_table.exists():
        table = read_table(workspace.cells_table)
        table = table.loc[table["test_good"] + table["test_defective"] > 0]
        metrics = table.loc[:, [*METRICS, *AT_THRESHOLD]].to_dict("records")
        rows = [(cell, row) for cell, row in zip(cells_of(table), metrics, strict=True) if cell in wanted]
        tracker.sync_results(rows, lambda cell: gallery.cell_sheet(cell, params.protocol, workspace))
    return tracker
