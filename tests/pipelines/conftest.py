"""What is slow to make and shared: a Ray session, a finished benchmark, and registered models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock

from clflow.config.params import load
from pipelines import console
from pipelines.compute import cluster
from tests import tiny
from tests.pipelines.command import benchmark
from tests.pipelines.trained import Trained


@pytest.fixture(autouse=True)
def no_tracking_server() -> Iterator[None]:
    """MLFLOW_TRACKING_URI, which MLflow itself sets for the process that names a server, outlives no test."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(autouse=True)
def progress_is_told() -> Iterator[None]:
    """Progress goes to standard error as it does by default; what a command was told about it outlives no test."""
    console.configure()
    yield
    os.environ.pop(console.LEVEL, None)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all stages that run in the tests' own process."""
    with cluster.session(load(tiny.ROOT / "pipelines" / "demo.yaml").resources):
        yield


@pytest.fixture(scope="session")
def database(all_tests: Path) -> Path:
    """An empty MLflow database, to be copied: to make one takes seconds. One process makes it for all."""
    path = all_tests / "mlflow.db"
    with FileLock(all_tests / "mlflow.lock"):
        if not path.exists():
            new = all_tests / "new.db"
            mlflow.MlflowClient(f"sqlite:///{new}").search_experiments()
            new.rename(path)
    return path


@pytest.fixture(scope="session")
def finished(tiny_source: Path, all_tests: Path) -> Path:
    """The workspace of a finished benchmark; read it, or copy the folder around it. One process makes it for all."""
    folder, done = all_tests / "finished", all_tests / "finished.done"
    with FileLock(all_tests / "finished.lock"):
        if not done.exists():
            shutil.copytree(tiny_source, folder / "source")
            benchmark(Path("source"), folder)  # relative to the parameter file
            done.touch()
    return folder / "workspace"


@pytest.fixture(scope="session")
def trained(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two categories, whose models are versions 1 and champions. Leave champions and files as they were."""
    return Trained.of(shutil.copytree(finished, tmp_path_factory.mktemp("trained") / "workspace", symlinks=True))
