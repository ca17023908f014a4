"""Runs of cells in MLflow: one per training of a cell, in any workspace."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Dataset, Run
from PIL import Image

from clflow.files import file_sha256, fingerprint, read_json
from pipelines.tracking.benchmark_runs import BenchmarkRuns
from pipelines.tracking.executions import Execution, Executions
from pipelines.tracking.models import log_detector
from pipelines.tracking.runs import CELL_KEY, EXECUTION, MODEL, RECORD, RESULTS, ROLE, Runs, flat, now
from pipelines.workspace import cells
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import read_score_record

_IDENTITY = ("dataset", "category", "method", "seed", "key")
_FILES = (cells.MARKER, "history.csv", "held_out.csv")


class CellRuns:
    """Runs of cells in one experiment."""

    def __init__(self, runs: Runs, parents: BenchmarkRuns):
        self._runs = runs
        self._parents = parents
        self._in_training: dict[str, str] = {}

    def log_point(self, cell: Cell, execution: Execution, point: dict[str, float]) -> None:
        """Log one evaluation point of a cell in training."""
        if cell.key not in self._in_training:
            began = now() - int(1000 * point.get("seconds", 0))
            run = self._unfinished(cell, execution) or self._create(cell, execution, began)
            self._in_training[cell.key] = run.info.run_id
        self._runs.log_points(self._in_training[cell.key], [point], now())

    def log_failure(self, cell: Cell, execution: Execution, log: Path) -> None:
        """Mark the run of a cell whose training failed, and its parent run, as failed."""
        run = self._unfinished(cell, execution) or self._create(cell, execution, now())
        self._in_training.pop(cell.key, None)
        self._runs.client.log_artifact(run.info.run_id, str(log))
        self._runs.client.set_terminated(run.info.run_id, "FAILED")
        self._parents.log_failure(execution)

    def log_training(self, cell: Cell, workspace: Workspace) -> None:
        """Log curves, parameters, metrics, files and model of a trained cell, unless they are logged already."""
        folder = workspace.run(cell)
        made = file_sha256(folder / cells.MARKER)
        run = self._runs.of_record(cell.key, made)
        if run is not None and MODEL in run.data.tags:
            return
        record, history = read_json(folder / cells.MARKER), pd.read_csv(folder / "history.csv")
        ended = int(1000 * (folder / cells.MARKER).stat().st_mtime)
        if run is None:
            execution = Executions(workspace).of_cell(cell)
            run = execution and self._unfinished(cell, execution)
            run = run or self._create(cell, execution, ended - int(1000 * record["train_seconds"]))
            self._runs.set_tags(run.info.run_id, {RECORD: made})
        id = run.info.run_id
        self._runs.log_points(id, self._unlogged(id, history), ended)
        inputs = record["inputs"]
        params = {"seed": cell.seed, "model.backbone": inputs["backbone"], **flat({"protocol": record["protocol"]})}
        params |= inputs["parameters"]
        self._runs.log_params(id, params)
        others = {name: value for name, value in record.items() if name not in _IDENTITY}
        self._runs.set_tags(id, {name: value for name, value in others.items() if isinstance(value, str | bool)})
        dataset = _dataset(cell, "train", record["data_hash"])
        self._runs.log_dataset(id, dataset, "training")
        for name in _FILES:
            self._runs.client.log_artifact(id, str(folder / name))
        model = log_detector(self._runs, id, folder, record, params)
        figures = {name: value for name, value in others.items() if type(value) in (int, float)}
        self._runs.log_figures(id, figures, ended, _last_step(history), model, dataset)
        self._runs.set_tags(id, {MODEL: model})
        self._runs.client.set_terminated(id, end_time=ended)
        self._in_training.pop(cell.key, None)

    def log_results(
        self, cell: Cell, metrics: dict[str, float], workspace: Workspace, picture: Callable[[Cell], Image.Image]
    ) -> None:
        """Log a cell's test metrics (NaN where undefined) and heat maps, unless they are logged already."""
        folder = workspace.run(cell)
        run = self._runs.of_record(cell.key, file_sha256(folder / cells.MARKER))
        assert run is not None, "its training was logged"
        score = read_score_record(cell, workspace)
        dataset = _dataset(cell, "test", score["test_hash"])
        figures = {f"test_{name}": value for name, value in metrics.items() if not math.isnan(value)}
        state = fingerprint([figures, dataset.digest])
        if run.data.tags.get(RESULTS) == state:
            return
        id, step = run.info.run_id, _last_step(pd.read_csv(folder / "history.csv"))
        self._runs.log_dataset(id, dataset, "evaluation")
        self._runs.log_figures(id, figures, now(), step, run.data.tags[MODEL], dataset)
        self._runs.client.log_image(id, picture(cell), artifact_file="heat_maps.png")
        self._runs.set_tags(id, {RESULTS: state})

    def _create(self, cell: Cell, execution: Execution | None, began: int) -> Run:
        tags = {name: str(getattr(cell, name)) for name in ("dataset", "category", "method", "seed")}
        tags |= {ROLE: "cell", CELL_KEY: cell.key}
        if execution is None:  # another workspace trained it
            return self._runs.create(cell.name, tags, began=began)
        return self._runs.create(cell.name, tags | {EXECUTION: execution.id}, self._parents.of(execution), began)

    def _unfinished(self, cell: Cell, execution: Execution) -> Run | None:
        """The unfinished run of a cell's training, also one that a killed process began, or None."""
        run = self._runs.find({CELL_KEY: cell.key, EXECUTION: execution.id}, status="RUNNING")
        return run if run is not None and RECORD not in run.data.tags else None

    def _unlogged(self, run: str, history: pd.DataFrame) -> list[dict[Any, Any]]:
        """Evaluation points not yet logged; a point is logged whole or not at all."""
        name = history.drop(columns="step").dropna(axis="columns").columns[0]
        seen = [metric.step for metric in self._runs.client.get_metric_history(run, name)]
        return history.loc[~history["step"].isin(seen)].to_dict("records")


def _dataset(cell: Cell, split: str, hash: str) -> Dataset:
    source = {"dataset": cell.dataset, "category": cell.category, "split": split, "data_hash": hash}
    return Dataset(f"{cell.dataset}/{cell.category}/{split}", hash[:16], "clflow", json.dumps(source))


def _last_step(history: pd.DataFrame) -> int:
    return int(history["step"].to_numpy().max())
