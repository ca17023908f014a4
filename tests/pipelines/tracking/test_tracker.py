"""What reaches MLflow, and what happens when it does not: with MLflow's own database, and with its server."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from clflow.config.params import Params
from clflow.errors import ClflowError
from clflow.files import fingerprint, read_json, write_json
from clflow.model.detector import CONFIG_FILE
from pipelines.search.study import Record, Search
from pipelines.stages.report import where_runs_are
from pipelines.tracking.executions import Executions
from pipelines.tracking.server import runs_page
from pipelines.tracking.tracker import Tracker
from pipelines.workspace.cells import Cell
from tests.loopback import Mirror, free_port, serve
from tests.mlflow_server import mlflow_server
from tests.pipelines.scored import Scored

METHODS = ("clflow", "fastflow")
METRICS = {"image_auroc": 0.9, "pixel_auroc": float("nan")}


class Bench:
    """A workspace of one category and two methods, whose cells are trained by writing their folders."""

    def __init__(self, folder: Path, experiment: str):
        self.scored = Scored.make(folder, ("nut",), METHODS, (0,))
        tracking = self.scored.params.tracking.model_copy(update={"experiment": experiment})
        self.params: Params = self.scored.params.model_copy(update={"tracking": tracking})
        self.workspace = self.scored.workspace
        self.cells = self.scored.cells
        self.protocol = self.params.protocol.model_dump(mode="json")
        write_json(self.workspace.metrics, {"parts": {"clflow": {"image_auroc": 0.9}}})
        for cell in self.cells:
            score = self.workspace.score(cell) / "score.json"
            write_json(score, read_json(score) | {"test_hash": "89ab" * 16})
            write_json(self.workspace.run(cell) / CONFIG_FILE, {"model": self.params.model.model_dump(mode="json")})
            self.write(cell, seconds=1.5)

    def write(self, cell: Cell, seconds: float) -> None:
        """What a training leaves: another one has taken another time."""
        path = self.workspace.run(cell) / "cell.json"
        write_json(path, read_json(path) | {"protocol": self.protocol, "train_seconds": seconds, "train_images": 9})

    def train(self, tracker: Tracker, cell: Cell, seconds: float = 1.5) -> None:
        """As the stage does: points while it trains, and at the end the folder."""
        points = pd.read_csv(self.workspace.run(cell) / "history.csv").to_dict("records")
        for point in points:
            tracker.log_point(cell, {str(name): value for name, value in point.items()})
        self.write(cell, seconds)
        tracker.log_training(cell, self.workspace)

    def connect(self) -> Tracker:
        tracker = Tracker.connect(self.params, self.workspace)
        assert tracker.down is None
        return tracker

    def sync(self, tracker: Tracker, value: float = 0.9) -> None:
        tracker.sync(self.cells, self.workspace)
        metrics = METRICS | {"image_auroc": value}
        tracker.sync_results([(cell, metrics) for cell in self.cells], lambda _: Image.new("RGB", (8, 8)))

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.workspace.mlflow_database}")

    def runs(self, role: str) -> list[Run]:
        """Oldest first."""
        experiment = self.client.get_experiment_by_name(self.params.tracking.experiment)
        assert experiment is not None
        condition = f"tags.`clflow.role` = '{role}'"
        return self.client.search_runs([experiment.experiment_id], condition, order_by=["start_time ASC"])

    def runs_of(self, cell: Cell) -> list[Run]:
        return [run for run in self.runs("cell") if run.data.tags["clflow.cell_key"] == cell.key]

    def run_of(self, cell: Cell) -> Run:
        (run,) = self.runs_of(cell)
        return run

    def curve(self, run: Run, name: str) -> list[tuple[int, float]]:
        """Step and value of every point, in the order of steps and, of one step, of times."""
        history = self.client.get_metric_history(run.info.run_id, name)
        ordered = sorted(history, key=lambda point: (point.step, point.timestamp))
        return [(point.step, point.value) for point in ordered]


@pytest.fixture
def bench(tmp_path: Path, database: Path, request: pytest.FixtureRequest) -> Bench:
    folder = tmp_path / "workspace"
    folder.mkdir()
    shutil.copy(database, folder)
    return Bench(folder, fingerprint(request.node.name)[:12])


def test_execution_is_a_run_and_so_is_every_training_of_a_cell(bench: Bench, anywhere: None):
    first, second = bench.cells
    for cell in bench.cells:  # a process each, as the stages of two datasets are
        bench.train(bench.connect(), cell)
    bench.workspace.leaderboard_page.write_text("![Accuracy](plots/cost.png)")
    for picture in (bench.workspace.plots / "cost.png", bench.workspace.gallery / "parts" / "nut.png"):
        picture.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(picture)
    Executions(bench.workspace).report(bench.params)
    tracker = bench.connect()
    bench.sync(tracker)
    tracker.require()
    (parent,) = bench.runs("benchmark")
    assert parent.info.status == "FINISHED" and parent.info.run_name == bench.params.benchmark.name
    assert parent.data.tags["commit"]
    assert parent.data.tags["clflow.protocol_hash"] == fingerprint(bench.protocol)
    assert parent.data.params["train.steps"] == str(bench.params.train.steps)
    assert parent.data.metrics["parts.clflow.image_auroc"] == 0.9
    assert parent.data.metrics["test_image_auroc"] == 0.9  # in the column of the cells
    artifacts = {
        file.path
        for folder in ("", "plots", "gallery/parts")
        for file in bench.client.list_artifacts(parent.info.run_id, folder)
    }
    assert {"params.yaml", "protocol.json", "leaderboard.md", "plots/cost.png", "gallery/parts/nut.png"} <= artifacts
    for cell in bench.cells:
        run = bench.run_of(cell)
        assert run.info.status == "FINISHED" and run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        wanted = {"dataset": "parts", "category": "nut", "method": cell.method, "seed": "0"}
        assert run.data.tags.items() >= (wanted | {"commit": "0123", "data_hash": "4567"}).items()
        assert bench.curve(run, "loss") == [(10, 3.0), (20, 2.0), (30, 1.0)]

    tracker = bench.connect()  # an execution that trains nothing
    bench.sync(tracker)
    tracker.require()
    assert len(bench.runs("cell")) == 2 and len(bench.runs("benchmark")) == 1

    tracker = bench.connect()  # and one that trains a cell again
    bench.train(tracker, first, seconds=2.5)
    tracker.sync(bench.cells, bench.workspace)
    tracker.require()
    old, new = bench.runs_of(first)
    assert (old.data.metrics["train_seconds"], new.data.metrics["train_seconds"]) == (1.5, 2.5)
    _, other = bench.runs("benchmark")
    assert new.data.tags["mlflow.parentRunId"] == other.info.run_id != parent.info.run_id
    assert bench.run_of(second).data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_page_of_the_runs_is_one_that_mlflow_has(bench: Bench):
    tracker = bench.connect()
    assert tracker.experiment is not None
    page = runs_page("http://host:5000/", tracker.experiment)
    assert page == f"http://host:5000/#/experiments/{tracker.experiment}/runs?workflowType=machine_learning"
    assert where_runs_are(tracker, bench.workspace).endswith("/runs?workflowType=machine_learning")
    scripts = "".join(path.read_text() for path in Path(mlflow.__file__).parent.glob("server/js/build/static/js/*.js"))
    for words in ('"/experiments/:experimentId/runs"', '.get("workflowType")', 'MACHINE_LEARNING="machine_learning"'):
        assert words in scripts


def test_figure_that_is_logged_again_replaces_the_one_that_was(bench: Bench, anywhere: None):
    cell = bench.cells[0]
    for value in (0.9, 0.7):
        write_json(bench.workspace.metrics, {"parts": {"clflow": {"image_auroc": value}}})
        tracker = bench.connect()
        bench.sync(tracker, value)
        tracker.require()
    run, (parent,) = bench.run_of(cell), bench.runs("benchmark")
    assert run.data.metrics["test_image_auroc"] == 0.7
    assert parent.data.metrics["parts.clflow.image_auroc"] == 0.7
    assert "test_pixel_auroc" not in run.data.metrics
    assert bench.curve(run, "test_image_auroc") == [(30, 0.9), (30, 0.7)]
    history = bench.client.get_metric_history(run.info.run_id, "test_image_auroc")
    assert all(abs(point.timestamp / 1000 - time.time()) < 600 for point in history)


def test_metrics_belong_to_the_model_and_to_its_data(bench: Bench, anywhere: None):
    bench.sync(bench.connect())
    run = bench.run_of(bench.cells[0])
    assert run.outputs is not None and run.inputs is not None
    (output,) = run.outputs.model_outputs
    model = bench.client.get_logged_model(output.model_id)
    assert model.status == "READY" and model.params["train.steps"] == str(bench.params.train.steps)
    found = {metric.key: (metric.dataset_name, metric.value) for metric in model.metrics or []}
    assert found["test_image_auroc"] == ("parts/nut/test", 0.9)
    assert found["train_seconds"] == ("parts/nut/train", 1.5)
    assert {each.dataset.name: each.tags[0].value for each in run.inputs.dataset_inputs} == {
        "parts/nut/train": "training",
        "parts/nut/test": "evaluation",
    }


def test_curves_are_complete_and_none_is_logged_twice(bench: Bench):
    first, second = bench.cells
    history = {"step": [10, 20, 30], "loss": [3.0, 2.0, 1.0], "contrast": [float("nan"), 0.5, 0.25]}
    for cell in bench.cells:
        pd.DataFrame(history).to_csv(bench.workspace.run(cell) / "history.csv", index=False)
    bench.connect().log_point(first, {"step": 10, "loss": 3.0})  # and is killed
    bench.connect().log_point(first, {"step": 20, "loss": 2.0, "contrast": 0.5})  # and goes on
    bench.write(first, seconds=1.5)
    tracker = bench.connect()
    bench.sync(tracker)
    tracker.require()
    for cell in (first, second):
        run = bench.run_of(cell)
        assert bench.curve(run, "loss") == [(10, 3.0), (20, 2.0), (30, 1.0)]
        assert bench.curve(run, "contrast") == [(20, 0.5), (30, 0.25)]
        times = [point.timestamp for point in bench.client.get_metric_history(run.info.run_id, "loss")]
        assert run.info.start_time <= min(times) and abs(max(times) / 1000 - time.time()) < 600


def remove_a_file(bench: Bench, cell: Cell) -> Callable[[], None]:
    """It is missing; returns what brings it back."""
    path = bench.workspace.run(cell) / "held_out.csv"
    content = path.read_bytes()
    path.unlink()
    return lambda: _write(path, content)


def name_a_curve_as_mlflow_refuses(bench: Bench, cell: Cell) -> Callable[[], None]:
    path = bench.workspace.run(cell) / "history.csv"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"loss", b"loss?"))
    return lambda: _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [remove_a_file, name_a_curve_as_mlflow_refuses])
def test_what_is_wrong_with_one_cell_is_of_no_other(
    bench: Bench, anywhere: None, spoil: Callable[[Bench, Cell], Callable[[], None]], capsys: pytest.CaptureFixture[str]
):
    wrong, right = bench.cells
    mend = spoil(bench, wrong)
    tracker = bench.connect()
    for cell in bench.cells:
        bench.train(tracker, cell)
    bench.sync(tracker)
    assert bench.run_of(right).data.metrics["test_image_auroc"] == 0.9
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1 and f"warning: {wrong.name} is not logged to MLflow" in said
    with pytest.raises(ClflowError, match=rf"not logged .*: {wrong.name} \(.*run `clflow sync`"):
        tracker.require()
    mend()
    tracker = bench.connect()
    bench.sync(tracker)
    tracker.require()
    assert bench.curve(bench.run_of(wrong), "loss") == [(10, 3.0), (20, 2.0), (30, 1.0)]
    assert bench.run_of(wrong).data.metrics["test_image_auroc"] == 0.9


def test_server_that_goes_away_is_told_once_and_gets_all_when_it_is_back(
    bench: Bench, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    backend, port = f"sqlite:///{shutil.copy(database, tmp_path)}", free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with mlflow_server(backend, tmp_path, port):
        tracker = bench.connect()
        tracker.log_point(bench.cells[0], {"step": 10, "loss": 3.0})
    for cell in bench.cells:
        bench.train(tracker, cell)
    tracker.sync(bench.cells, bench.workspace)  # it is asked once more, at the end
    assert capsys.readouterr().err.count("warning: ") == 2
    with pytest.raises(ClflowError, match=f"MLflow at http://127.0.0.1:{port} does not work"):
        tracker.require()
    other = bench.params.model_copy(update={"train": bench.params.train.model_copy(update={"steps": 7})})
    with mlflow_server(backend, tmp_path, port):
        tracker = Tracker.connect(other, bench.workspace)  # the parameters have changed since
        bench.sync(tracker)
        tracker.require()
        (parent,) = bench.runs("benchmark")
        assert parent.data.params["train.steps"] == str(bench.params.train.steps)
        for cell in bench.cells:
            run = bench.run_of(cell)
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert bench.curve(run, "loss") == [(10, 3.0), (20, 2.0), (30, 1.0)]


def test_server_that_fails_at_everything_is_down(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with serve(Mirror(b"", status=503)) as mirror:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mirror.url.removesuffix("/archive"))
        tracker = Tracker.connect(bench.params, bench.workspace)
        with pytest.raises(ClflowError, match="does not work"):
            tracker.require()


def test_failed_training_is_a_failed_run_and_the_next_one_another(bench: Bench, tmp_path: Path):
    cell = bench.cells[0]
    log = tmp_path / "log.txt"
    log.write_text("diverged")
    tracker = bench.connect()
    tracker.log_point(cell, {"step": 10, "loss": 3.0})
    tracker.log_failure(cell, log)
    assert bench.run_of(cell).info.status == "FAILED" and bench.runs("benchmark")[0].info.status == "FAILED"
    tracker = bench.connect()
    bench.train(tracker, cell)
    bench.sync(tracker)
    tracker.require()
    assert sorted(run.info.status for run in bench.runs_of(cell)) == ["FAILED", "FINISHED"]
    (parent,) = bench.runs("benchmark")
    assert parent.info.status == "FINISHED"


def test_cells_that_another_workspace_trained_have_no_parent_here(bench: Bench):
    bench.sync(bench.connect())
    assert all("mlflow.parentRunId" not in run.data.tags for run in bench.runs("cell"))
    assert len(bench.runs("benchmark")) == 1


def test_execution_goes_on_until_it_has_reported_or_something_changes(bench: Bench):
    executions, (first, second) = Executions(bench.workspace), bench.cells
    assert executions.latest() is None and executions.of_cell(first) is None
    one = executions.train(first, bench.params)
    assert executions.train(second, bench.params) == one
    assert executions.report(bench.params) == replace(one, reported=True)
    assert executions.report(bench.params).id == one.id
    two = executions.train(first, bench.params)
    changed = bench.params.model_copy(update={"train": bench.params.train.model_copy(update={"steps": 7})})
    three = executions.train(first, changed)
    assert len({one.id, two.id, three.id}) == 3
    assert executions.latest() == executions.of_cell(first) == three
    known = executions.of_cell(second)
    assert known is not None and known.id == one.id


def test_same_search_of_two_workspaces_is_two_runs(bench: Bench, sqlite_server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_server)
    record = Record(0, "finished", {"train.steps": 8}, [{"step": 4, "validation": 0.5}], 1.5, None)
    for name in ("one", "two"):
        search = Search("parts", ("nut",), "0123", bench.workspace.root / name)
        for _ in range(2):
            tracker = bench.connect()
            tracker.log_trial(search, record)
            tracker.require()
    assert len(bench.runs("search")) == len(bench.runs("trial")) == 2
    assert len({run.data.tags["mlflow.parentRunId"] for run in bench.runs("trial")}) == 2
    assert [run.data.metrics["validation"] for run in bench.runs("trial")] == [0.5, 0.5]
