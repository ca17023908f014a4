"""A cluster that is there already, joined by its address and a token, as Ray's ask for; two workers train a cell."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest

from clflow.config.params import Params, load
from clflow.files import read_json
from pipelines.stages import fetch, synthesize
from pipelines.workspace.cells import MARKER
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import plan_cells
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


@dataclass(frozen=True)
class Cluster:
    """A cluster of one node."""

    address: str
    process: psutil.Process

    def workers(self) -> list[psutil.Process]:
        """The workers of a cell, by the title that Ray gives them."""
        children = self.process.children(recursive=True)
        return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    port = free_port()
    log = home / "ray.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                str(BIN / "ray"),
                *("start", "--head", "--block", f"--port={port}", "--num-cpus=2", f"--temp-dir={home / 'ray'}"),
                *("--include-dashboard=false", "--disable-usage-stats"),
            ],
            env=environment(HOME=str(home), RAY_AUTH_MODE="token"),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text(), process, log)
        yield Cluster(f"127.0.0.1:{port}", psutil.Process(process.pid))
    finally:
        # To end it gracefully takes Ray half a minute after a worker was killed.
        family = [*psutil.Process(process.pid).children(recursive=True), process]
        for member in family:
            member.kill()
        process.wait()


def configure(workspace: Workspace, source: Path, **resources: object) -> Params:
    """One cell, which is trained long enough to be interrupted, with these resources."""
    tree = tiny.params_tree(source, benchmark__methods=["clflow"], train__steps=100, train__eval_points=10)
    tree["data"]["folder"]["categories"] = ["disc"]
    tree["train"]["keep_eval_weights"] = False
    tree["resources"] |= resources
    return load(tiny.write_params(workspace.params, tree))


@pytest.fixture(scope="module")
def workspace(
    tiny_source: Path, database: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    shutil.copy(database, workspace.mlflow_database)
    params = configure(workspace, tiny_source, cluster=cluster.address, workers_per_cell=2)
    fetch.run(params, "folder", workspace)
    synthesize.run(params, "folder", workspace)
    return workspace


def test_ray_that_does_not_start_is_one_sentence(workspace: Workspace, tiny_source: Path, tmp_path: Path):
    local = Workspace(shutil.copytree(workspace.root, tmp_path / "local"))
    configure(local, tiny_source)
    too_long = tmp_path / ("for-a-socket-" * 9)
    trained = run("clflow", "train", "--dataset", "folder", cwd=local.root, variables={"RAY_TMPDIR": str(too_long)})
    assert trained.returncode == 2
    said = trained.stdout.splitlines()[-1]
    assert said.startswith("error: Ray does not start on this machine (") and "Traceback" not in trained.stdout


def test_cluster_that_is_not_shown_its_token_is_one_sentence(workspace: Workspace, cluster: Cluster, home: Path):
    # Ray tries once a second, 20 times if it is not told otherwise.
    unshown = {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "RAY_NUM_REDIS_GET_RETRIES": "1"}
    trained = run("clflow", "train", "--dataset", "folder", cwd=workspace.root, variables=unshown)
    assert trained.returncode == 2
    said = trained.stdout.splitlines()[-1]
    assert said.startswith(f"error: no Ray cluster answers at resources.cluster '{cluster.address}'")
    assert "set RAY_AUTH_MODE=token" in said


def test_one_of_two_workers_is_killed_and_both_go_on_from_their_last_checkpoint(
    workspace: Workspace, cluster: Cluster, home: Path, tmp_path: Path
):
    params = load(workspace.params)
    (cell,) = plan_cells(params, workspace)
    log, said = workspace.log(cell.name), tmp_path / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            [str(BIN / "clflow"), "train", "--dataset", "folder"],
            cwd=workspace.root,
            env=environment(HOME=str(home), RAY_AUTH_MODE="token"),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    wait_until(lambda: log.exists() and "step 20 " in log.read_text(), process, said)
    victim, _ = cluster.workers()
    victim.kill()
    assert process.wait() == 0, said.read_text()
    history = pd.read_csv(workspace.run(cell) / "history.csv")
    assert list(history["step"]) == list(range(10, 101, 10))
    assert log.read_text().count("step 10 ") == 1
    assert read_json(workspace.run(cell) / MARKER)["params_added"] > 0
    alone = params.model_copy(update={"resources": params.resources.model_copy(update={"workers_per_cell": 1})})
    assert cell.key not in {other.key for other in plan_cells(alone, workspace)}
