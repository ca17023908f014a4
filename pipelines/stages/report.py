"""What a person reads: leaderboard.md, plots and galleries, from reports/*.csv and the stored scores."""

from __future__ import annotations

from pathlib import Path

from clflow.config.params import Params
from clflow.files import read_json, write_atomically
from pipelines.reporting import gallery, plots
from pipelines.reporting.best_on_test import best_on_test
from pipelines.reporting.comparison import gains
from pipelines.reporting.leaderboard import markdown
from pipelines.stages.aggregate import cells_of, read_table
from pipelines.tracking.tracker import Tracker


def run(params: Params, workspace: Path) -> None:
    """Write reports/leaderboard.md, reports/plots and reports/gallery.

    Raises:
        DataError: the scores have not been aggregated, or an image cannot be read.
        CellError: the stored scores of a cell do not fit together.
    """
    reports = workspace / "reports"
    table, board = read_table(reports / "cells.csv"), read_table(reports / "leaderboard.csv")
    aggregated = cells_of(table)
    plots.write(aggregated, board, workspace)
    gallery.write(aggregated, params.protocol, workspace)
    protocol = read_json(reports / "protocol.json")
    text = markdown(table, board, gains(aggregated, workspace), best_on_test(aggregated, workspace), params, protocol)
    with write_atomically(reports / "leaderboard.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


def publish(params: Params, workspace: Path) -> None:
    """Bring the reported results to MLflow."""
    table = read_table(workspace / "reports" / "cells.csv")
    Tracker.connect(params, workspace).sync(cells_of(table), workspace)
