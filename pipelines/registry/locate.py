"""Find a trained model: a cell's folder on disk, or a version in the MLflow registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clflow.errors import ClflowError, DataError
from clflow.model.detector import CONFIG_FILE
from pipelines.tracking.server import reason, tracking_uri
from pipelines.workspace.paths import Workspace

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SCHEME = "models:/"
CHAMPION = "champion"
"""Alias of the version in use."""


def registered_name(dataset: str, category: str) -> str:
    """Name of a category's registered model."""
    return f"clflow-{dataset}-{category}"


def champion_version(name: str, uri: str) -> int:
    """Version number of a registered model's champion on the MLflow server at ``uri``.

    Raises:
        ClflowError: there is none, or MLflow does not answer.
    """
    with _registry(f"{SCHEME}{name}@{CHAMPION}", uri):
        from mlflow import MlflowClient

        return int(MlflowClient(uri, uri).get_model_version_by_alias(name, CHAMPION).version)


def find_version(reference: str, uri: str) -> ModelVersion:
    """Resolve a reference such as ``models:/name@champion`` on the MLflow server at ``uri``.

    Raises:
        ClflowError: there is none, or MLflow does not answer.
    """
    with _registry(reference, uri):
        from mlflow import MlflowClient
        from mlflow.store.artifact.utils.models import get_model_name_and_version

        client = MlflowClient(uri, uri)
        found = get_model_name_and_version(client, reference)
        if len(found) == 1:
            raise ClflowError("it names a logged model, not a version")
        name, version = found
        return client.get_model_version(str(name), str(version))


def local_folder(reference: str, workspace: Workspace, into: Path) -> Path:
    """Folder of a detector, with the other files of its cell.

    Args:
        reference: the path of a cell's folder, or an MLflow model URI such as ``models:/name@champion``.
        workspace: whose MLflow database is asked if MLFLOW_TRACKING_URI names no server.
        into: an empty folder for what must be downloaded.

    Raises:
        DataError: the path holds no detector.
        ClflowError: MLflow has no such model, or does not answer.
    """
    if not reference.startswith(SCHEME):
        folder = Path(reference)
        if not (folder / CONFIG_FILE).is_file():
            raise DataError(f"{folder} holds no trained detector; name a cell's folder below runs/ or a models:/ URI.")
        return folder
    return download(reference, tracking_uri(workspace), into)


def download(reference: str, uri: str, into: Path) -> Path:
    """Download a detector from the MLflow server at ``uri`` ``into`` an empty folder; returns its folder.

    Raises:
        DataError: the model is not a detector of clflow.
        ClflowError: MLflow has no such model, or does not answer.
    """
    with _registry(reference, uri):
        from mlflow import MlflowClient
        from mlflow.artifacts import download_artifacts
        from mlflow.store.artifact.utils.models import get_model_name_and_version

        # Given the reference itself, MLflow would look for it on the server of the process, whatever it is told here.
        client = MlflowClient(uri, uri)
        match get_model_name_and_version(client, reference):
            case (model_id,):
                location = client.get_logged_model(model_id).artifact_location
            case (name, version):
                location = client.get_model_version_download_uri(str(name), str(version))
        download_artifacts(artifact_uri=location, dst_path=str(into), tracking_uri=uri)
    found = sorted(into.rglob(CONFIG_FILE))
    if len(found) != 1:
        raise DataError(f"{reference} is no model of clflow: it holds {len(found)} detectors.")
    return found[0].parent


def require_database(uri: str) -> None:
    """Check that an SQLite database exists; MLflow would create an empty one.

    Raises:
        ClflowError: it does not.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise ClflowError(f"there is no MLflow database at {uri}; set MLFLOW_TRACKING_URI or run where mlflow.db lies.")


@contextmanager
def _registry(reference: str, uri: str) -> Iterator[None]:
    """Turn errors of MLflow into one sentence.

    What is done inside names the server at every call: `mlflow.set_tracking_uri` would set MLFLOW_TRACKING_URI for
    the whole process, and promotion asks two servers.
    """
    require_database(uri)
    try:
        yield
    except Exception as error:  # MLflow, SQLAlchemy, requests and object stores each raise their own
        raise ClflowError(
            f"{reference} is unavailable from MLflow at {uri} ({reason(error)}); check name and alias."
        ) from None
