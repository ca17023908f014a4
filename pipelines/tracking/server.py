"""The MLflow server: its address, and whether an error means that it is down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import requests
import urllib3

if TYPE_CHECKING:  # who only needs the address, such as a prediction with a folder's detector, need not wait for it
    from mlflow import MlflowClient

    from pipelines.workspace.paths import Workspace

# Without these, a server that is down would be asked for minutes at every call. MLflow reads them at each.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

_UNREACHABLE = (
    ConnectionError,
    TimeoutError,
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
)


def tracking_uri(workspace: Workspace) -> str:
    """The MLflow server: MLFLOW_TRACKING_URI, else the database in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.mlflow_database}"


def runs_page(address: str, experiment: str) -> str:
    """URL of an experiment's runs table on an MLflow server.

    Without the workflow type in the URL, MLflow opens its page for language models.
    """
    return f"{address.rstrip('/')}/#/experiments/{experiment}/runs?workflowType=machine_learning"


def is_down(error: BaseException, client: MlflowClient) -> bool:
    """Whether an error means that nothing else would work either, rather than that one request is wrong.

    A connection error means that it is down, also one of the object store. After any other error the server is sent a
    plain request, which fails only if it is down or refuses all requests.
    """
    return any(isinstance(each, _UNREACHABLE) for each in _chain(error)) or not _answers(client)


def reason(error: BaseException) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _answers(client: MlflowClient) -> bool:
    try:
        client.search_experiments(max_results=1)
    except Exception:  # MLflow, SQLAlchemy and requests each raise their own
        return False
    return True


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from; MLflow wraps what it catches."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
