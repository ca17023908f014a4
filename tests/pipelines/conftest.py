"""A workspace with trained and registered models, for all that uses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clflow.params import load
from pipelines import cluster
from tests import tiny
from tests.pipelines.trained import Trained


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all stages that run in the tests' own process."""
    with cluster.session(load(tiny.ROOT / "pipelines" / "demo.yaml").resources):
        yield


@pytest.fixture(scope="session")
def trained(tiny_source: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two categories, whose models are versions 1 and champions. Leave champions and files as they were."""
    workspace = tmp_path_factory.mktemp("trained")
    tree = tiny.params_tree(tiny_source, benchmark__methods=["clflow"])
    tree["serving"] |= {"poll_seconds": 0.5, "body_mb": 1, "megapixels": 1}
    return Trained.make(workspace, tree)
