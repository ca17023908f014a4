"""The report as one page for a browser: no other file, no network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clflow import heatmap
from pipelines.reporting.cases import Pictures, ScoredCell, first_of_each
from pipelines.reporting.content import Results, content, interval_of
from pipelines.reporting.formats import MISSING, TITLES, percent, rate
from pipelines.reporting.leaderboard import mixed_hardware, trained_on
from pipelines.reporting.published import PUBLISHED
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import MEAN

if TYPE_CHECKING:
    from clflow.config.params import Params

_TEMPLATES = Path(__file__).parent / "page"
_PICTURES, _EACH = 6_000_000, 40
"""Characters that all pictures may take, and how many test images each category and method shows at most."""


@dataclass(frozen=True)
class _Column:
    """A column of figures in the leaderboard.

    Attributes:
        id: names it in the page's address.
        title: its heading.
        kinds: of columns that are shown together.
        descending: whether high figures are good.
    """

    id: str
    title: str
    kinds: str
    descending: bool = True


_COLUMNS = (
    _Column("image_auroc", "image AUROC", "key image"),
    _Column("interval", "95 % interval", "key image"),
    _Column("image_ap", "image AP", "image"),
    _Column("image_f1max", "image F1-max", "image"),
    _Column("pixel_auroc", "pixel AUROC", "key pixel"),
    _Column("pixel_ap", "pixel AP", "pixel"),
    _Column("pixel_f1max", "pixel F1-max", "pixel"),
    _Column("aupro_30", "AUPRO@0.3", "key pixel"),
    _Column("aupro_05", "AUPRO@0.05", "pixel"),
    _Column("false_alarms", "false alarms", "key verdicts", descending=False),
    _Column("misses", "misses", "key verdicts", descending=False),
    _Column("params_added", "added parameters", "costs", descending=False),
    _Column("train_seconds", "training per cell", "costs", descending=False),
    _Column("inference_ms", "inference per image", "key costs", descending=False),
)


def page(
    results: Results,
    gained: pd.DataFrame,
    best_on_test: pd.DataFrame,
    params: Params,
    protocol: dict[str, Any],
    cells: list[Cell],
    workspace: Workspace,
) -> str:
    """Render the page: a few megabytes, however many cells there are.

    Args:
        results: of the cells.
        gained: see `pipelines.reporting.comparison.gains`.
        best_on_test: see `pipelines.reporting.best_on_test.best_on_test`.
        params: what was asked for.
        protocol: protocol.json: the protocol and its hash.
        cells: those of ``results``.
        workspace: theirs.

    Raises:
        DataError: an image cannot be read.
        CellError: the stored scores of a cell do not fit together.
    """
    scored = {cell: ScoredCell.load(cell, params.protocol, workspace) for cell in cells}
    pictures = Pictures.of([scored[cell] for cell in first_of_each(cells)], _EACH, _PICTURES)
    board = results.board.to_dict("records")
    asked = sum(len(params.data[name].categories) for name in params.benchmark.datasets)
    asked *= len(params.benchmark.methods) * len(params.benchmark.seeds)
    table = results.cells
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            name=params.benchmark.name,
            params=params,
            protocol=protocol,
            asked=asked,
            mean=MEAN,
            columns=_COLUMNS,
            board=[{**row, "figures": list(_figures(row, interval_of(row, results.intervals)))} for row in board],
            categories=table.drop_duplicates(["dataset", "category"]).to_dict("records"),
            tuned=set(table.loc[table["tuned"], ["dataset", "category"]].itertuples(index=False, name=None)),
            methods=list(results.board["method"].unique()),
            cells=table.to_dict("records"),
            commits=list(table["commit"].unique()),
            hardware=trained_on(table),
            mixed=mixed_hardware(table),
            gains=gained.to_dict("records"),
            best=best_on_test.to_dict("records"),
            published=[result for result in PUBLISHED if result.dataset in set(table["dataset"])],
            legend=heatmap.LEGEND,
            data=content(results, scored, pictures, workspace),
            charts=_charts(),
        )
    )


def _figures(row: dict[Any, Any], interval: tuple[float, float] | None) -> Iterator[tuple[_Column, float | None, str]]:
    """Each column with what it is sorted by, and its text; from a row of the leaderboard."""
    texts = {name: percent(row, name) for name in TITLES}
    texts |= {name: rate(row, name) for name in ("false_alarms", "misses")}
    texts["interval"] = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else MISSING
    units = {"params_added": "{:.2f} M", "train_seconds": "{:.0f} s", "inference_ms": "{:.0f} ms"}
    for name, unit in units.items():
        value = row[name] / 1e6 if name == "params_added" else row[name]
        texts[name] = MISSING if math.isnan(value) else unit.format(value)
    values = row | {name: row[f"{name}_mean"] for name in TITLES}
    values["interval"] = interval[0] if interval else math.nan
    for column in _COLUMNS:
        value = float(values[column.id])
        yield column, None if math.isnan(value) else value, texts[column.id]


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "ensure_ascii": False}
    found.globals["raw"] = lambda name: Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
    return found


@cache
def _charts() -> Markup:
    """Vega-Lite and all that it needs."""
    return Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
