"""Training cells with the real Ray and MLflow: whatever dies, nothing that was finished is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import mlflow
import pandas as pd
import psutil
import pytest

from clflow.config.params import Params, load
from clflow.errors import CellError, ClflowError, WeightsError
from clflow.features.zoo import import_timm
from clflow.files import write_json
from pipelines.stages import fetch, synthesize, train
from pipelines.tracking.tracker import Tracker
from pipelines.workspace.cells import MARKER, Cell, Selection
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import plan_cells
from pipelines.workspace.results import read_failure
from tests import tiny
from tests.pipelines.command import BIN
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def prepared(
    tiny_source: Path, database: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """A workspace with data, synthetic anomalies and an empty database; copied by every test."""
    workspace = Workspace(tmp_path_factory.mktemp("prepared"))
    shutil.copy(database, workspace.mlflow_database)
    params = load(tiny.write_params(workspace.params, tiny.params_tree(tiny_source)))
    fetch.run(params, "folder", workspace)
    synthesize.run(params, "folder", workspace)
    return workspace


@pytest.fixture
def workspace(prepared: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(prepared.root, tmp_path / "workspace"))


def changed(workspace: Workspace, tiny_source: Path, **changes: object) -> Params:
    """The workspace's parameters, changed; only the last checkpoint is kept, as by default."""
    tree = tiny.params_tree(tiny_source, train__keep_eval_weights=False, **changes)
    return load(tiny.write_params(workspace.params, tree))


def one_cell(workspace: Workspace, tiny_source: Path, **changes: object) -> Params:
    """Parameters of a single cell."""
    disc = {"source": str(tiny_source), "categories": ["disc"]}
    return changed(workspace, tiny_source, benchmark__methods=["clflow"], data__folder=disc, **changes)


def complete(workspace: Workspace) -> dict[str, float]:
    """Names of the complete cells, and when each was finished."""
    return {path.parent.name: path.stat().st_mtime for path in workspace.runs("folder").glob(f"[!.]*/{MARKER}")}


def logs(workspace: Workspace) -> list[Path]:
    """Of the cells that have begun."""
    return list(workspace.logs.glob("*.log"))


def reporting(workspace: Workspace) -> list[Path]:
    """Logs of the cells that have begun to report, and so have a checkpoint."""
    return [log for log in logs(workspace) if "step " in log.read_text()]


def start(workspace: Workspace) -> subprocess.Popen[str]:
    command = [str(BIN / "clflow"), "train", "--dataset", "folder"]
    return subprocess.Popen(
        command, cwd=workspace.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def workers(process: subprocess.Popen[str], title: str) -> list[psutil.Process]:
    """The processes of a cell's workers, by the title that Ray gives them."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if title in " ".join(child.cmdline())]


def test_killed_worker_and_killed_driver_lose_no_finished_cell_and_no_checkpoint(
    workspace: Workspace, tiny_source: Path
):
    long = {"benchmark__methods": ["clflow"], "train__steps": 100, "train__eval_points": 10}
    changed(workspace, tiny_source, **long, resources__cpus_per_worker=os.cpu_count())  # one after the other
    process = start(workspace)
    wait_until(lambda: any("step 20 " in log.read_text() for log in logs(workspace)), process)
    (victim,) = workers(process, "train_single")
    victim.kill()
    wait_until(lambda: len(complete(workspace)) > 0 and len(reporting(workspace)) == 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = complete(workspace)
    assert len(first) == 1

    params = changed(workspace, tiny_source, **long)
    assert len(train.missing(plan_cells(params, workspace), workspace)) == 1
    train.run(params, "folder", workspace)
    after = complete(workspace)
    assert len(after) == 2
    assert {name: after[name] for name in first} == first
    assert [log.read_text().count("step 10 ") for log in logs(workspace)] == [1, 1]  # none was begun again
    for name in after:
        history = pd.read_csv(workspace.runs("folder") / name / "history.csv")
        assert list(history["step"]) == list(range(10, 101, 10))
    assert not [path for path in workspace.checkpoints.iterdir() if path.name in after]


def test_failed_cell_is_named_and_stops_no_other(workspace: Workspace, tiny_source: Path):
    tree = tiny.params_tree(tiny_source, benchmark__methods=["clflow"])
    tree["overrides"] = {"folder/disc": {"train": {"learning_rate": 1e30, "warmup": 0}}}
    params = load(tiny.write_params(workspace.params, tree))
    with pytest.raises(CellError, match=r"1 of 2 cells of folder failed.*disc-clflow-s0.*log: .*\.log") as error:
        train.run(params, "folder", workspace)
    assert "stripes" not in str(error.value)
    assert {name.split("-")[0] for name in complete(workspace)} == {"stripes"}
    (log,) = workspace.logs.glob("disc-*.log")
    assert "training diverged" in log.read_text() and "worker 1 of 1: process " in log.read_text()
    (failed,) = [cell for cell in plan_cells(params, workspace) if cell.category == "disc"]
    assert "training diverged" in str(read_failure(failed, workspace))
    client = mlflow.MlflowClient(f"sqlite:///{workspace.mlflow_database}")
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    assert experiment is not None
    failed = "status = 'FAILED' and tags.`clflow.role` = 'cell'"
    runs = client.search_runs([experiment.experiment_id], failed)
    assert {run.data.tags["category"] for run in runs} == {"disc"}


def test_cells_of_slots_that_cannot_run_fail_with_the_reason(workspace: Workspace, tiny_source: Path):
    params = changed(workspace, tiny_source, resources__attempts=1)
    chosen = Selection(("disc",), ("clflow",), (0,))  # the others are not selected
    (cell,) = chosen.of(plan_cells(params, workspace))
    workspace.checkpoints.mkdir(exist_ok=True)
    (workspace.checkpoints / cell.name).touch()  # where its folder is to be
    with pytest.raises(CellError, match=r"1 of 1 cells of folder failed"):
        train.run(params, "folder", workspace, chosen)
    (log,) = logs(workspace)
    assert "Not a directory" in log.read_text()
    assert not complete(workspace)


def test_storage_that_cannot_be_used_is_told_before_a_worker_is_started(workspace: Workspace, tiny_source: Path):
    (workspace.root / "file").touch()
    for storage, reason in (("file", "File exists"), ("file/below", "Not a directory")):
        params = changed(workspace, tiny_source, resources__storage=storage)
        with pytest.raises(
            ClflowError, match=rf"resources\.storage .*{storage} cannot be .*\({reason}\); name another"
        ):
            train.run(params, "folder", workspace)
    assert not logs(workspace)


def test_training_finishes_without_tracking_and_sync_catches_up(
    workspace: Workspace, tiny_source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    params = one_cell(workspace, tiny_source)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    train.run(params, "folder", workspace)
    said = capsys.readouterr().err
    assert "clflow sync" in said
    assert re.search(r"1 cells in \d+ s; slots trained for \d+% of it", said)
    assert re.search(r"warning: disc: \d+ calibration images keep a false alarm rate of \d+\.\d%, not 1\.0%", said)
    wanted = plan_cells(params, workspace)
    assert not train.missing(wanted, workspace)
    with pytest.raises(ClflowError, match=r"127\.0\.0\.1:9"):
        Tracker.connect(params, workspace).require()

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for _ in range(2):  # twice, for it must not log anything twice
        tracker = Tracker.connect(params, workspace)
        tracker.sync(wanted, workspace)
        tracker.require()
    client = mlflow.MlflowClient(f"sqlite:///{workspace.mlflow_database}")
    experiment = client.get_experiment_by_name("clflow")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`clflow.cell_key` = '{wanted[0].key}'")
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [4, 8]


def test_too_few_resources_is_one_sentence(workspace: Workspace, tiny_source: Path):
    params = changed(workspace, tiny_source, resources__cpus_per_worker=1000)
    with pytest.raises(ClflowError, match=r"one cell needs 1 x .*1000.*resources\.workers_per_cell"):
        train.run(params, "folder", workspace)


def test_weights_that_are_not_here_any_more_are_told_before_a_worker_is_started(
    workspace: Workspace, tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CLFLOW_CACHE", str(tmp_path / "cache"))
    record = tmp_path / "cache" / "weights" / f"resnet18.a1_in1k-timm-{import_timm().__version__}.json"
    write_json(record, {"digest": "of an earlier plan"})
    params = one_cell(workspace, tiny_source, model__backbone="resnet18.a1_in1k", model__weights="hub")
    with pytest.raises(WeightsError, match=r"resnet18\.a1_in1k was not downloaded before"):
        train.run(params, "folder", workspace)
    assert not logs(workspace)


def test_parameters_change_the_keys_of_those_methods_that_read_them(workspace: Workspace, tiny_source: Path):
    methods = ["clflow", "fastflow", "anomalib-padim"]

    def keys(**changes: object) -> set[tuple[str, str]]:
        params = changed(workspace, tiny_source, benchmark__methods=methods, **changes)
        return {(cell.method, cell.key) for cell in plan_cells(params, workspace)}

    before = keys()
    assert {method for method, _ in before - keys(train__steps=9)} == {"clflow", "fastflow"}
    assert {method for method, _ in before - keys(loss__contrast=0.7)} == {"clflow"}
    assert {method for method, _ in before - keys(protocol__holdout=0.5)} == set(methods)


def test_order_is_largest_first_and_every_category_before_the_second_of_any():
    def cell(category: str, seed: int, images: int) -> Cell:
        return Cell("d", category, "clflow", seed, f"{category}{seed}", images)

    small, large = [cell("small", s, 10) for s in (0, 1)], [cell("large", s, 99) for s in (0, 1)]
    assert train.in_order([*small, *large]) == [large[0], small[0], large[1], small[1]]
