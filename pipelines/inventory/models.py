"""The models that the registry holds of a benchmark's categories, and the MLflow runs of cells."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from clflow.config.params import Params
from clflow.files import file_sha256
from pipelines.registry.champions import REASONS, VERDICT, Registry, number
from pipelines.registry.locate import SCHEME, find_version, registered_name, require_database
from pipelines.tracking.runs import CELL_KEY, Runs
from pipelines.tracking.server import tracking_uri
from pipelines.workspace.cells import MARKER, Cell
from pipelines.workspace.paths import Workspace

COLUMNS = ("name", "version", "aliases", "verdict", "created", "cell_key")


def versions(params: Params, datasets: Sequence[str], workspace: Workspace) -> list[dict[str, Any]]:
    """All versions of the models of some datasets' categories, oldest first for each.

    Keys: ``name``, ``version``, ``reference`` (as ``--model`` takes it), ``aliases``, ``verdict`` and ``reasons`` (None
    if it was not promoted by clflow), ``cell_key``, ``run`` (its id in MLflow) and ``created`` (UTC).

    Raises:
        ClflowError: MLflow does not answer, or there is none yet.
    """
    registry = _registry(workspace)
    return [
        _row(version, registry)
        for dataset in datasets
        for category in params.data[dataset].categories
        for version in registry.versions(registered_name(dataset, category))
    ]


def describe(reference: str, workspace: Workspace) -> dict[str, Any]:
    """A version by its reference: the keys of `versions`, and ``description`` and all ``tags``.

    Raises:
        ClflowError: MLflow does not answer, or has no such version.
    """
    registry = _registry(workspace)
    version = find_version(reference, registry.uri)
    return {**_row(version, registry), "description": version.description, "tags": dict(version.tags)}


def run_of(cell: Cell, params: Params, workspace: Workspace) -> dict[str, str] | None:
    """Server (``uri``) and id (``run``) of the MLflow run of a trained cell; None if it was not logged.

    Raises:
        ClflowError: MLflow does not answer, or there is none yet.
    """
    registry = _registry(workspace)
    experiment = registry.client.get_experiment_by_name(params.tracking.experiment)
    if experiment is None:
        return None
    runs = Runs(registry.client, experiment.experiment_id)
    run = runs.of_record(cell.key, file_sha256(workspace.run(cell) / MARKER))
    return {"uri": registry.uri, "run": run.info.run_id} if run else None


def _registry(workspace: Workspace) -> Registry:
    uri = tracking_uri(workspace)
    require_database(uri)
    registry = Registry(uri)
    registry.require_answer()
    return registry


def _row(version: ModelVersion, registry: Registry) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": number(version),
        "reference": f"{SCHEME}{version.name}/{number(version)}",
        "aliases": registry.aliases(version),
        "verdict": version.tags.get(VERDICT),
        "reasons": version.tags.get(REASONS),
        "cell_key": version.tags.get(CELL_KEY),
        "run": version.run_id,
        "created": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
    }
