"""DVC's own tools across commits: each works once in a git checkout, on one category of the tiny dataset."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.workspace.paths import Workspace
from tests import tiny
from tests.pipelines.command import run

WHO = {f"GIT_{who}_{what}": "tests@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
ALWAYS = {"fetch@folder", "plan_inputs@folder", "plan@folder"}
FILES = (".dvc", ".dvcignore", ".gitignore", "dvc.yaml", "tuned")


@dataclass(frozen=True)
class Checkout:
    """A git checkout of the pipeline, with the tiny dataset's parameters."""

    folder: Path

    def call(self, *command: str) -> str:
        result = run(*command, cwd=self.folder, variables=WHO)
        assert result.returncode == 0, result.stdout
        return result.stdout

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=tests", "-c", "user.email=tests@localhost", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def stages_that_ran(self, output: str) -> set[str]:
        return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage ")}


@pytest.fixture(scope="module")
def checkout(tiny_source: Path, finished: Path, database: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A commit whose pipeline has run; its cell is that of the finished benchmark, for its key is the same."""
    folder = tmp_path_factory.mktemp("dvc") / "checkout"
    tracked = subprocess.run(["git", "ls-files", *FILES], cwd=tiny.ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((tiny.ROOT / name).read_bytes())
    data = {"source": str(tiny_source), "categories": ["disc"]}
    tree = tiny.params_tree(tiny_source, data__folder=data, benchmark__methods=["clflow"])
    tiny.write_params(folder / "below.yaml", tree)
    own = {"extends": "below.yaml", "benchmark": tree["benchmark"]}  # dvc.yaml itself reads three lists
    own |= {section: {"datasets": []} for section in ("tune", "promotion")}
    tiny.write_params(folder / "params.yaml", {**own, "train": {"steps": tree["train"]["steps"]}})
    shutil.copy(database, Workspace(folder).mlflow_database)
    for stored in ("runs", "scores"):
        for cell in (finished / stored / "folder").glob("disc-clflow-*"):
            shutil.copytree(cell, folder / stored / "folder" / cell.name)
    made = Checkout(folder)
    made.git("init", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "parameters")
    assert "0 to train, 0 to score" in made.call("dvc", "repro")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "results")
    return made


def test_an_experiment_is_compared_with_its_commit(checkout: Checkout, tmp_path: Path):
    """The file states one of the two parameters that change, and leaves the other to the layer below it."""
    own, below = ("-S", "train.steps=10"), ("-S", "++train.warmup=3")
    ran = checkout.stages_that_ran(checkout.call("dvc", "exp", "run", *own, *below))
    assert ran == ALWAYS | {"train@folder", "evaluate@folder", "aggregate", "report"}
    (cell,) = json.loads((checkout.folder / "plan" / "folder.json").read_text())["cells"]
    trained = cell["inputs"]["parameters"]
    assert (trained["train.steps"], trained["train.warmup"]) == (10, 3)
    assert (checkout.folder / "params.yaml").read_text().startswith("extends: below.yaml")

    changes = json.loads(checkout.call("dvc", "params", "diff", "--json"))["params.yaml"]
    steps, warmup = {"old": 8, "new": 10, "diff": 2}, {"old": None, "new": 3}
    assert changes == {"train.steps": steps, "train.warmup": warmup}
    metrics = json.loads(checkout.call("dvc", "metrics", "diff", "--json"))["reports/metrics.json"]
    assert metrics["folder.clflow.pixel_ap"]["old"] != metrics["folder.clflow.pixel_ap"]["new"]
    checkout.call("dvc", "plots", "diff", "HEAD", "--out", str(tmp_path / "plots"))
    assert "HEAD_reports_plots_image_auroc.png" in (tmp_path / "plots" / "index.html").read_text()
    shown = list(csv.DictReader(io.StringIO(checkout.call("dvc", "exp", "show", "--csv"))))
    assert {(row["train.steps"], bool(row["folder.clflow.image_auroc"])) for row in shown} == {
        ("8", True),
        ("10", True),
    }

    checkout.git("checkout", "--quiet", ".")
    checkout.call("dvc", "checkout")
    assert checkout.stages_that_ran(checkout.call("dvc", "repro")) == ALWAYS  # both cells are there


def test_a_dry_run_after_the_plan_says_what_would_run(checkout: Checkout):
    params = checkout.folder / "below.yaml"
    before = params.read_text()
    try:
        params.write_text(before.replace("map_size: 64", "map_size: 32"))
        checkout.call("clflow", "plan")
        would = checkout.stages_that_ran(checkout.call("dvc", "repro", "--dry"))
        changed = set(json.loads(checkout.call("dvc", "status", "--json")))
    finally:
        params.write_text(before)
        checkout.call("clflow", "plan")
    assert would == changed == ALWAYS | {"aggregate"}


def test_a_clone_that_pulls_rebuilds_nothing(checkout: Checkout, tmp_path: Path):
    checkout.call("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    checkout.call("dvc", "push")
    clone = Checkout(tmp_path / "clone")
    checkout.git("clone", "--quiet", ".", str(clone.folder))
    clone.call("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    clone.call("dvc", "pull")
    assert clone.stages_that_ran(clone.call("dvc", "repro")) == ALWAYS
    assert clone.git("status", "--porcelain") == ""
    for name in ("reports/leaderboard.csv", "reports/leaderboard.md"):
        assert (clone.folder / name).read_text() == (checkout.folder / name).read_text()


def test_gc_keeps_what_the_workspace_holds(checkout: Checkout):
    checkout.call("dvc", "gc", "--workspace", "--force")
    assert json.loads(checkout.call("dvc", "status", "--json")).keys() == ALWAYS
