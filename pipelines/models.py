"""Where a trained model is: a cell's folder on disk, or a version in the MLflow registry."""

from __future__ import annotations

import os
from pathlib import Path

from clflow.errors import ClflowError, DataError
from clflow.model.detector import CONFIG_FILE

SCHEME = "models:/"


def tracking_uri(workspace: Path) -> str:
    """The MLflow server: MLFLOW_TRACKING_URI, else the database in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace / 'mlflow.db'}"


def local_folder(reference: str, workspace: Path, into: Path) -> Path:
    """The folder of a detector, with all that its cell keeps beside it.

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
    import mlflow  # not needed for a plain folder, and slow to import

    uri = tracking_uri(workspace)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise ClflowError(f"there is no MLflow database at {uri}; set MLFLOW_TRACKING_URI or run where mlflow.db lies.")
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.artifacts.download_artifacts(artifact_uri=reference, dst_path=str(into))
    except Exception as error:  # MLflow, SQLAlchemy, requests and object stores each raise their own
        reason = " ".join(str(error).split())[:200]
        raise ClflowError(f"{reference} cannot be had from MLflow at {uri} ({reason}); check name and alias.") from None
    found = sorted(into.rglob(CONFIG_FILE))
    if len(found) != 1:
        raise DataError(f"{reference} is no model of clflow: it holds {len(found)} detectors.")
    return found[0].parent
