"""Where everything lies in a workspace. No other module knows a path name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.workspace.cells import Cell


@dataclass(frozen=True)
class Workspace:
    """The folder that a benchmark works in.

    Attributes:
        root: absolute path.
    """

    root: Path

    @property
    def params(self) -> Path:
        """The parameter file."""
        return self.root / "params.yaml"

    def data(self, dataset: str) -> Path:
        """Images and manifest of a dataset."""
        return self.root / "data" / dataset

    @property
    def synthetic_root(self) -> Path:
        """A folder of synthetic anomalies for each dataset."""
        return self.root / "synthetic"

    def synthetic(self, dataset: str, name: str | None = None) -> Path:
        """All sets of synthetic anomalies of a dataset, or the one of a name."""
        folder = self.synthetic_root / dataset
        return folder / name if name else folder

    @property
    def runs_root(self) -> Path:
        """A folder of trained cells for each dataset."""
        return self.root / "runs"

    def runs(self, dataset: str) -> Path:
        """All trained cells of a dataset."""
        return self.runs_root / dataset

    def run(self, cell: Cell) -> Path:
        """A trained cell."""
        return self.runs(cell.dataset) / cell.name

    @property
    def scores_root(self) -> Path:
        """A folder of scores for each dataset."""
        return self.root / "scores"

    def scores(self, dataset: str) -> Path:
        """The scores of all cells of a dataset."""
        return self.scores_root / dataset

    def score(self, cell: Cell) -> Path:
        """The scores of a cell."""
        return self.scores(cell.dataset) / cell.name

    def plan(self, dataset: str, stage: str | None = None) -> Path:
        """The plan of a dataset as a person reads it, or the part that a stage depends on."""
        folder = self.root / "plan"
        return (folder / stage if stage else folder) / f"{dataset}.json"

    def tuned(self, name: str) -> Path:
        """What a search found."""
        return self.root / "tuned" / f"{name}.yaml"

    @property
    def reports(self) -> Path:
        """What a person reads."""
        return self.root / "reports"

    @property
    def cells_table(self) -> Path:
        """A row of metrics per cell."""
        return self.reports / "cells.csv"

    @property
    def pro_table(self) -> Path:
        """A PRO curve per cell."""
        return self.reports / "pro.csv"

    @property
    def leaderboard_table(self) -> Path:
        """Means and deviations over seeds."""
        return self.reports / "leaderboard.csv"

    @property
    def page(self) -> Path:
        """All results as one page for a browser."""
        return self.reports / "index.html"

    @property
    def leaderboard_page(self) -> Path:
        """The leaderboard as Markdown."""
        return self.reports / "leaderboard.md"

    @property
    def metrics(self) -> Path:
        """Means of each dataset, for ``dvc metrics``."""
        return self.reports / "metrics.json"

    @property
    def protocol(self) -> Path:
        """The protocol that the tables were measured under, and its hash."""
        return self.reports / "protocol.json"

    @property
    def plots(self) -> Path:
        """Plots and their data."""
        return self.reports / "plots"

    @property
    def gallery(self) -> Path:
        """Heat maps of test images."""
        return self.reports / "gallery"

    @property
    def pages(self) -> tuple[Path, ...]:
        """The tables, pages and folders of `reports` that link to each other by where they lie in it."""
        tables = self.leaderboard_table, self.cells_table
        return self.page, self.leaderboard_page, *tables, self.plots, self.gallery

    def promotion_table(self, dataset: str) -> Path:
        """The verdicts of the last promotion."""
        return self.reports / f"promotion-{dataset}.csv"

    @property
    def watch(self) -> Path:
        """Running statistics of scores in use."""
        return self.root / "watch"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's runs and registry, where no server is named."""
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's files, where no server is named."""
        return self.root / "mlruns"

    @property
    def logs(self) -> Path:
        """A log per cell or trial."""
        return self.root / "logs"

    def log(self, name: str) -> Path:
        """The log of a cell or trial, by its name."""
        return self.logs / f"{name}.log"

    def failure(self, cell: Cell) -> Path:
        """Why the last training of a cell failed."""
        return self._private / "failures" / cell.dataset / f"{cell.name}.json"

    @property
    def executions(self) -> Path:
        """Which execution of the benchmark trained a cell."""
        return self._private / "tracking"

    @property
    def checkpoints(self) -> Path:
        """Cells that are being trained, where no other storage is named."""
        return self._private / "ray"

    @property
    def owner_record(self) -> Path:
        """Which parameter file the workspace was made from."""
        return self._private / "workspace.json"

    def fetch_record(self, dataset: str) -> Path:
        """What the last fetch saw."""
        return self._private / "fetch" / f"{dataset}.json"

    def search(self, key: str) -> Path:
        """The trials of a search."""
        return self._private / "search" / key[:12]

    @property
    def _private(self) -> Path:
        return self.root / ".clflow"
