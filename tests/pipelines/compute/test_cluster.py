"""A cluster that is there already, joined by its address; it asks for a token, as Ray's do."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from clflow.config.params import load
from pipelines.stages import fetch, synthesize
from pipelines.workspace.paths import Workspace
from tests import tiny
from tests.loopback import free_port
from tests.pipelines.command import BIN, environment, run
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home folder with a token. Its path is short, for Ray makes sockets below it."""
    with tempfile.TemporaryDirectory() as folder:
        made = run("ray", "get-auth-token", "--generate", variables={"HOME": folder, "RAY_AUTH_MODE": "token"})
        assert made.returncode == 0, made.stdout
        yield Path(folder)


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """Of a cluster of one node."""
    port = free_port()
    log = home / "ray.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                str(BIN / "ray"),
                *("start", "--head", "--block", f"--port={port}", "--num-cpus=1", f"--temp-dir={home / 'ray'}"),
                *("--include-dashboard=false", "--disable-usage-stats"),
            ],
            env=environment(HOME=str(home), RAY_AUTH_MODE="token"),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text(), process, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def workspace(tiny_source: Path, database: Path, address: str, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    shutil.copy(database, workspace.mlflow_database)
    changes = {"benchmark__methods": ["clflow"], "resources__cluster": address}
    params = load(tiny.write_params(workspace.params, tiny.params_tree(tiny_source, **changes)))
    fetch.run(params, "folder", workspace)
    synthesize.run(params, "folder", workspace)
    return workspace


def test_ray_that_does_not_start_is_one_sentence(workspace: Workspace, tiny_source: Path, tmp_path: Path):
    local = Workspace(shutil.copytree(workspace.root, tmp_path / "local"))
    tiny.write_params(local.params, tiny.params_tree(tiny_source, benchmark__methods=["clflow"]))
    too_long = tmp_path / ("for-a-socket-" * 9)
    trained = run("clflow", "train", "--dataset", "folder", cwd=local.root, variables={"RAY_TMPDIR": str(too_long)})
    assert trained.returncode == 2
    said = trained.stdout.splitlines()[-1]
    assert said.startswith("error: Ray does not start on this machine (") and "Traceback" not in trained.stdout


def test_cluster_that_is_not_shown_its_token_is_one_sentence(workspace: Workspace, address: str, home: Path):
    # Ray tries once a second, 20 times if it is not told otherwise.
    unshown = {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "RAY_NUM_REDIS_GET_RETRIES": "1"}
    trained = run("clflow", "train", "--dataset", "folder", cwd=workspace.root, variables=unshown)
    assert trained.returncode == 2
    said = trained.stdout.splitlines()[-1]
    assert said.startswith(f"error: no Ray cluster answers at resources.cluster '{address}'")
    assert "set RAY_AUTH_MODE=token" in said


def test_cells_are_trained_on_a_cluster(workspace: Workspace, home: Path):
    shown = {"HOME": str(home), "RAY_AUTH_MODE": "token"}
    done = run("clflow", "train", "--dataset", "folder", cwd=workspace.root, variables=shown)
    assert done.returncode == 0, done.stdout
    assert len(list(workspace.runs("folder").glob("*/cell.json"))) == len(tiny.CATEGORIES)
