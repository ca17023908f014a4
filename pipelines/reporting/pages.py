"""What a person reads of a benchmark: the page for a browser, the leaderboard's page, plots and galleries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clflow.files import read_json, write_atomically
from pipelines.reporting import gallery, plots
from pipelines.reporting.best_on_test import best_on_test
from pipelines.reporting.comparison import auroc_intervals, gains, resample
from pipelines.reporting.content import Results
from pipelines.reporting.html import page
from pipelines.reporting.leaderboard import markdown
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import cells_of, read_table

if TYPE_CHECKING:
    from clflow.config.params import Params


def write_pages(params: Params, workspace: Workspace) -> None:
    """Write reports/index.html, leaderboard.md, plots and gallery from the aggregated tables.

    Raises:
        DataError: the scores have not been aggregated, or an image cannot be read.
        CellError: the stored scores of a cell do not fit together.
    """
    table, board = read_table(workspace.cells_table), read_table(workspace.leaderboard_table)
    cells = cells_of(table)
    plots.write(cells, board, workspace)
    gallery.write(cells, params.protocol, workspace)
    draws = resample(cells, workspace)
    gained, best, protocol = gains(draws), best_on_test(cells, workspace), read_json(workspace.protocol)
    results = Results(table, board, read_table(workspace.pro_table), auroc_intervals(draws))
    for path, text in (
        (workspace.leaderboard_page, markdown(table, board, gained, best, params, protocol)),
        (workspace.page, page(results, gained, best, params, protocol, cells, workspace)),
    ):
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
