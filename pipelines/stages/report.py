"""Stage `report`: what a person reads, and the results in MLflow."""

from __future__ import annotations

from clflow.config.params import Params
from pipelines.reporting.pages import write_pages
from pipelines.tracking.tracker import Tracker
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import cells_of, read_table


def run(params: Params, workspace: Workspace) -> None:
    """Write the pages; see `write_pages`."""
    write_pages(params, workspace)


def publish(params: Params, workspace: Workspace) -> None:
    """Bring the reported results to MLflow."""
    table = read_table(workspace.cells_table)
    Tracker.connect(params, workspace).sync(cells_of(table), workspace)
