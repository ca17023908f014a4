"""Stage `report`: what a person reads, and the results in MLflow."""

from __future__ import annotations

from clflow.config.params import Params
from clflow.metrics import METRICS
from clflow.rates import AT_THRESHOLD
from pipelines.reporting import gallery
from pipelines.reporting.pages import write_pages
from pipelines.tracking.executions import Executions
from pipelines.tracking.tracker import Tracker
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import cells_of, read_table


def run(params: Params, workspace: Workspace) -> None:
    """Write the pages; see `write_pages`."""
    write_pages(params, workspace)


def publish(params: Params, workspace: Workspace) -> None:
    """Bring the reported results to MLflow, as those of this execution of the benchmark."""
    Executions(workspace).report(params)
    sync(params, cells_of(read_table(workspace.cells_table)), workspace)


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
