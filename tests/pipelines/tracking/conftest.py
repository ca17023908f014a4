"""MLflow in the three ways that people run it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow_server import POSTGRES, mlflow_server, postgresql


@pytest.fixture(scope="session")
def sqlite_server(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(f"sqlite:///{shutil.copy(database, folder)}", folder) as uri:
        yield uri


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed (Debian's package is `postgresql`)")
    with postgresql() as backend, mlflow_server(backend, tmp_path_factory.mktemp("server")) as uri:
        yield uri


@pytest.fixture(params=["database", "sqlite_server", "postgresql_server"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracking goes to the workspace's own database, or to a server."""
    if request.param != "database":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue(request.param))
