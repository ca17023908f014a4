"""Runs of one MLflow experiment: found by tags, logged to in batches of the size that MLflow allows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

CELL_KEY, RECORD, MODEL = "clflow.cell_key", "clflow.record_sha256", "clflow.model_id"
"""Tags of a cell's run: its key; the hash of cell.json, unique per training; its logged model, set when all of the
training is logged."""

ROLE, EXECUTION, RESULTS = "clflow.role", "clflow.execution", "clflow.results"
"""Tags of any run: its role; its execution of the benchmark; the hash of the logged results."""

Item = TypeVar("Item")

_METRICS, _PARAMS = 1000, 100  # MLflow's limits of one batch


@dataclass(frozen=True)
class Runs:
    """Runs of an experiment."""

    client: MlflowClient
    experiment: str

    @classmethod
    def open(cls, client: MlflowClient, name: str, artifacts: str | None) -> Runs:
        """Open an experiment; it is created, with this artifact location, if it does not exist."""
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return cls(client, client.create_experiment(name, artifacts))
            except MlflowException:
                found = client.get_experiment_by_name(name)  # another process may have been first
                if found is None:
                    raise
        return cls(client, found.experiment_id)

    def find(self, tags: Mapping[str, str], status: str | None = None) -> Run | None:
        """The latest run with these tags, or None."""
        conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        conditions += [f"attributes.status = '{status}'"] if status else []
        found = self.client.search_runs([self.experiment], " and ".join(conditions), max_results=1)
        return found[0] if found else None

    def of_record(self, key: str, record: str) -> Run | None:
        """The run of the training that wrote a cell's files, by key and hash of cell.json, or None."""
        return self.find({CELL_KEY: key, RECORD: record})

    def create(self, name: str, tags: dict[str, str], parent: str | None = None, began: int | None = None) -> Run:
        """Start a run, now or at a time in the past (milliseconds since 1970)."""
        tags = tags | ({"mlflow.parentRunId": parent} if parent else {})
        return self.client.create_run(self.experiment, began or now(), tags, name)

    def log_points(self, run: str, points: Iterable[Mapping[Any, Any]], time: int) -> None:
        """Log evaluation points, each with its ``step``; NaN, where a curve has not begun, is left out."""
        metrics = (
            Metric(name, float(value), time, int(point["step"]))
            for point in points
            for name, value in point.items()
            if name != "step" and not math.isnan(value)
        )
        for batch in _batches(metrics, _METRICS):
            self.client.log_batch(run, batch)

    def log_figures(
        self,
        run: str,
        figures: Mapping[str, float],
        time: int,
        step: int,
        model: str | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        """Log a run's results, as metrics of its model and of a dataset.

        MLflow shows the value of the highest step, and of these the one of the latest time: logged again with the same
        step, a figure replaces the one that was.
        """
        name, digest = (dataset.name, dataset.digest) if dataset else (None, None)
        metrics = [Metric(each, value, time, step, model, name, digest) for each, value in figures.items()]
        self.client.log_batch(run, metrics)

    def log_params(self, run: str, values: Mapping[str, Any]) -> None:
        """Log parameters."""
        params = (Param(name, str(value)) for name, value in values.items())
        for batch in _batches(params, _PARAMS):
            self.client.log_batch(run, params=batch)

    def log_dataset(self, run: str, dataset: Dataset, context: str) -> None:
        """Log which data a run used, and in which context."""
        self.client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def set_tags(self, run: str, tags: Mapping[str, Any]) -> None:
        """Set tags in one call."""
        self.client.log_batch(run, tags=[RunTag(name, str(value)) for name, value in tags.items()])


def flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The values of sections by ``section.name``."""
    return {
        f"{section}.{name}": value for section, values in sections.items() for name, value in (values or {}).items()
    }


def now() -> int:
    """The current time in MLflow's unit, milliseconds."""
    return int(1000 * time.time())


def _batches(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
