"""Shared by all tests: a cache of their own, no hub, one thread, and the tiny dataset."""

from __future__ import annotations

import gc
import os
from pathlib import Path

# Before torch, Ray or MLflow are imported; child processes inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("MLFLOW_TRACKING_URI", None)

import pytest
from hypothesis import settings

collect_ignore = ["plugin"]  # tests of the example, which run where it is installed

# How long an example takes says more about who else computes here.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

# All tests import what is heavy; see `clflow.imports`.
gc.set_threshold(700, 10, 1000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first, so that the quick ones fill what is left of the time. The very first needs the finished
    benchmark, and the others that need it come last: one process makes it while the others have something else to
    do."""
    finished = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}
    first = min(finished, default=None)
    items.sort(key=lambda i: ("pipelines" not in i.path.parts, i.path != first, i.path in finished))


@pytest.fixture(scope="session")
def all_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes which run these tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's cache folder for the time of the tests."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CLFLOW_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset; not to be changed."""
    from tests import tiny  # it imports torch, which the process that only hands out tests must not wait for

    return tiny.write_dataset(tmp_path_factory.mktemp("source"))
