"""The whole pipeline with the real dvc, Ray and MLflow, from a user's folder of images to the leaderboard."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clflow.config.params import load
from clflow.config.schema import VALIDATION
from clflow.files import read_json
from pipelines import doctor
from pipelines.benchmark import prepare
from pipelines.inference import drift, predict
from pipelines.registry.locate import CHAMPION, registered_name
from pipelines.reporting.tables import LEADERBOARD_COLUMNS
from pipelines.stages import aggregate, evaluate, fetch, promote, report, synthesize, train
from pipelines.workspace.cells import EVAL_SCORES, MARKER
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import plan_cells
from tests import tiny
from tests.pipelines.command import refusal, run


def trained(folder: Path) -> dict[str, int]:
    """Name of every complete cell, and when it was trained."""
    markers = Workspace(folder).runs("folder").glob(f"[!.]*/{MARKER}")
    return {path.parent.name: path.stat().st_mtime_ns for path in markers}


@pytest.fixture
def continued(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished benchmark's folder, to be changed and run again."""
    return Path(shutil.copytree(finished.parent, tmp_path / "copy", symlinks=True))


def test_leaderboard_has_every_category_and_method(finished: Path):
    workspace = Workspace(finished)
    board = pd.read_csv(workspace.leaderboard_table)
    assert tuple(board.columns) == LEADERBOARD_COLUMNS
    rows = set(zip(board["category"], board["method"], strict=True))
    assert rows == {(c, m) for c in (*tiny.CATEGORIES, "mean") for m in ("clflow", "fastflow")}
    assert board["image_auroc_mean"].between(0, 1).all()
    assert read_json(workspace.metrics)["folder"]["clflow"]["image_auroc"] > 0.5
    for name in ("index.html", "leaderboard.md", "gallery/overview.png", "gallery/folder/disc.png", "plots/roc.csv"):
        assert (workspace.reports / name).is_file()
    assert "best on test" in workspace.leaderboard_page.read_text()
    for scores in workspace.scores("folder").glob("[!.]*"):
        by_step, image = pd.read_csv(scores / EVAL_SCORES), pd.read_csv(scores / "scores.csv")["image_score"]
        assert list(by_step.columns) == ["4", "8"]
        np.testing.assert_allclose(by_step["8"], image, rtol=1e-5)
        assert not np.allclose(by_step["4"], image)
    for category in tiny.CATEGORIES:
        assert (workspace.synthetic("folder", category) / "contact_sheet.png").is_file()


def test_every_cell_is_a_run_with_curves_metrics_and_a_model(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    workspace = Workspace(finished)
    uri = f"sqlite:///{workspace.mlflow_database}"
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("clflow")
    assert experiment is not None
    runs = {run.data.tags.get("clflow.cell_key"): run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop(None)
    assert parent.info.status == "FINISHED" and parent.data.tags["commit"]
    assert parent.data.params["benchmark.name"] == "tiny" and parent.data.params["train.steps"] == "8"
    assert parent.data.metrics["folder.clflow.image_auroc"] > 0.5
    logged_page = Path(client.download_artifacts(parent.info.run_id, "index.html"))
    assert logged_page.read_text(encoding="utf-8") == workspace.page.read_text(encoding="utf-8")
    planned = plan_cells(load(workspace.params), workspace)
    assert runs.keys() == {cell.key for cell in planned}
    for cell in planned:
        run = runs[cell.key]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["data_hash"] and run.data.tags["commit"]
        assert run.data.params["train.steps"] == "8"
        assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [4, 8]
        history = pd.read_csv(finished / "runs" / "folder" / cell.name / "history.csv").set_index("step")
        for name, curve in history.items():
            logged = {point.step: point.value for point in client.get_metric_history(run.info.run_id, str(name))}
            assert logged == pytest.approx(curve.dropna().to_dict())
        (figure,) = client.get_metric_history(run.info.run_id, "test_image_auroc")
        assert run.info.start_time < figure.timestamp and figure.step == 8
        assert run.inputs is not None
        assert {each.dataset.name for each in run.inputs.dataset_inputs} == {
            f"folder/{cell.category}/{split}" for split in ("train", "test")
        }
        assert "heat_maps.png" in {file.path for file in client.list_artifacts(run.info.run_id)}

    cell = planned[0]
    (logged,) = mlflow.search_logged_models(
        [experiment.experiment_id], f"source_run_id = '{runs[cell.key].info.run_id}'", output_format="list"
    )
    data = read_json(finished / "scores" / "folder" / cell.name / "score.json")["test_hash"][:16]
    figures = {figure.key: (figure.dataset_name, figure.dataset_digest) for figure in logged.metrics or []}
    assert figures["test_image_auroc"] == (f"folder/{cell.category}/test", data)
    model = mlflow.pyfunc.load_model(logged.model_uri)
    scores = pd.read_csv(workspace.score(cell) / "scores.csv")
    images = np.stack([np.asarray(Image.open(workspace.data("folder") / path)) for path in scores["path"]])
    predicted = model.predict(images)
    assert predicted["score_maps"].shape == (len(scores), tiny.SIZE, tiny.SIZE)
    np.testing.assert_allclose(predicted["image_scores"], scores["image_score"], rtol=1e-5)
    assert not list(workspace.mlflow_artifacts.rglob("*.pkl"))


def test_sync_names_the_cells_that_it_could_not_bring(
    continued: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    workspace = continued / "workspace"
    (workspace / "mlflow.db").unlink()
    damaged, *others = sorted(path.parent for path in workspace.glob("runs/folder/[!.]*/cell.json"))
    (damaged / "history.csv").rename(workspace / "history.csv")
    arguments = ("sync", "--params", str(workspace / "params.yaml"))
    said = refusal(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert damaged.name in said and not any(other.name in said for other in others)
    (workspace / "history.csv").rename(damaged / "history.csv")
    result = run("clflow", *arguments)
    assert result.returncode == 0, result.stdout
    client = mlflow.MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("clflow")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`clflow.role` = 'cell'")
    assert {run.info.run_name for run in runs} == {folder.name for folder in (damaged, *others)}
    assert all("test_image_auroc" in run.data.metrics for run in runs)
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert len(parents) == 1 and len(runs) == 4


def test_second_repro_does_nothing(finished: Path):
    before = trained(finished)
    lock = (finished / "dvc.lock").read_text()
    result = run("dvc", "repro", cwd=finished)
    assert result.returncode == 0, result.stdout
    for stage in ("synthesize@folder", "train@folder", "evaluate@folder", "aggregate", "report"):
        assert f"Stage '{stage}' didn't change, skipping" in result.stdout
    assert trained(finished) == before
    assert (finished / "dvc.lock").read_text() == lock


def test_changed_image_asks_for_a_new_cell_of_its_category_only(continued: Path):
    workspace = Workspace(continued / "workspace")
    before = trained(workspace.root)
    image = continued / "source" / "disc" / "train" / "good" / "000.png"
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    tiny.write_params(continued / "tiny.yaml", tiny.params_tree(Path("source"), benchmark__methods=["clflow"]))
    prepare(continued / "tiny.yaml", workspace.root)
    result = run("dvc", "repro", "synthesize@folder", "plan@folder", cwd=workspace.root)
    assert result.returncode == 0, result.stdout
    assert "2 cells, 1 to train, 0 to score" in result.stdout, result.stdout
    assert trained(workspace.root) == before  # also the cells of the former image, until `clflow gc`
    (new,) = train.missing(plan_cells(load(workspace.params), workspace), workspace)
    assert new.name.startswith("disc-clflow-s0-")


def test_removed_category_is_in_no_table_and_its_cells_stay(continued: Path):
    workspace = Workspace(continued / "workspace")
    before = trained(workspace.root)
    data = {"source": "source", "categories": ["stripes"]}
    tiny.write_params(continued / "tiny.yaml", tiny.params_tree(Path("source"), data__folder=data))
    prepare(continued / "tiny.yaml", workspace.root)
    params = load(workspace.params)
    fetch.run(params, "folder", workspace)
    aggregate.run(params, workspace)
    report.run(params, workspace)
    for path in (workspace.leaderboard_table, workspace.cells_table, workspace.leaderboard_page):
        assert "disc" not in path.read_text() and "stripes" in path.read_text()
    assert not list(workspace.data("folder").glob("disc*"))
    assert not list(workspace.gallery.rglob("disc*"))
    assert trained(workspace.root) == before
    for folder in (workspace.synthetic("folder"), workspace.runs("folder"), workspace.scores("folder")):
        assert list(folder.glob("disc*"))


def test_new_lines_without_defects_go_all_the_way(
    continued: Path,
    database: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """disc has only normal test images and stripes none at all; a new seed, so that both are trained so."""
    workspace, source = Workspace(continued / "workspace"), continued / "source"
    shutil.copy(database, workspace.mlflow_database)  # the copied one keeps its files where the copy comes from
    for gone in ("disc/test/hole", "disc/ground_truth", "stripes/test", "stripes/ground_truth"):
        shutil.rmtree(source / gone)
    tree = tiny.params_tree(Path("source"), benchmark__methods=["clflow"], benchmark__seeds=[1])
    rules = {"datasets": ["folder"], "seed": 1, "floors": {"validation_auroc": 0.0}, "ceilings": {}}
    tree["promotion"] |= rules
    prepare(tiny.write_params(continued / "tiny.yaml", tree), workspace.root)
    params = load(workspace.params)
    for stage in (fetch, synthesize, train, evaluate):
        stage.run(params, "folder", workspace)
    aggregate.run(params, workspace)
    report.run(params, workspace)
    report.publish(params, workspace)
    promote.run(params, {"folder": tiny.CATEGORIES}, workspace, source=None, dry_run=False)
    assert "stripes: 12 train / 0 test good / 0 test defective; no test images" in capsys.readouterr().err

    page = workspace.leaderboard_page.read_text()
    assert "disc has no defective test images; stripes has no test images." in page
    table = pd.read_csv(workspace.cells_table).set_index("category")
    assert np.isnan(table["image_auroc"].to_numpy()).all()
    assert np.isnan(table["false_alarms"].to_numpy()).tolist() == [False, True]  # disc, stripes
    assert read_json(workspace.metrics)["folder"]["clflow"]["false_alarms_categories"] == 1
    assert (workspace.gallery / "folder" / "disc.png").exists()

    client = mlflow.MlflowClient(f"sqlite:///{workspace.mlflow_database}")
    for category, missing, figures in (
        ("disc", "no defective test images", {"false_alarms", "false_alarms_lower", "false_alarms_upper"}),
        ("stripes", "no test images", set()),
    ):
        version = client.get_model_version_by_alias(registered_name("folder", category), CHAMPION)
        assert version.description and missing in version.description and "validation AUROC" in version.description
        metrics = client.get_run(str(version.run_id)).data.metrics
        assert {name for name in metrics if name.startswith("test_")} == {f"test_{name}" for name in figures}
        assert {*VALIDATION} <= json.loads(version.tags["clflow.metrics"]).keys() & metrics.keys()

    monkeypatch.chdir(workspace.root)
    images = tiny.write_dataset(continued / "line") / "stripes" / "test"
    predict.run("models:/clflow-folder-stripes@champion", str(images), continued / "out", "csv")
    assert len(pd.read_csv(continued / "out" / "scores.csv")) == 2 * tiny.TEST
    drift.run(continued / "out" / "watch", load(workspace.params).watching)


def test_what_a_person_can_mend_is_one_sentence_and_exit_code_2(
    tmp_path: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tree = tiny.params_tree(tiny_source)
    tree["train"]["stepps"] = 3
    wrong_key = tiny.write_params(tmp_path / "wrong.yaml", tree)
    absent = tiny.write_params(tmp_path / "absent.yaml", tiny.params_tree(tmp_path / "nowhere"))
    for command, words in (
        (("fetch", "--dataset", "folder", "--params", str(wrong_key)), "train.stepps"),
        (("fetch", "--dataset", "folder", "--params", str(tmp_path / "none.yaml")), "does not exist"),
        (("fetch", "--dataset", "btad", "--params", str(absent)), "btad"),
        (("fetch", "--dataset", "folder", "--params", str(absent)), "nowhere"),
        (("train", "--dataset", "folder", "--params", str(absent)), "fetch"),
        (("aggregate", "--params", str(absent)), "fetch"),
    ):
        assert words in refusal(*command, monkeypatch=monkeypatch, capsys=capsys)
    result = run("clflow", "fetch", "--dataset", "folder", "--params", str(absent))  # and so for whoever calls it
    assert result.returncode == 2
    assert result.stdout.splitlines()[-1].startswith("error: ") and "Traceback" not in result.stdout


def test_doctor_says_what_is_wrong(
    tmp_path: Path, tiny_source: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
):
    workspace = Workspace(tmp_path)
    params = workspace.params
    assert doctor.examine(load(tiny.write_params(params, tiny.params_tree(tiny_source))), workspace) == 0
    said = capsys.readouterr().out
    assert "Nothing is wrong; 2 notes" in said and said.count("note   images: folder/") == 2  # 12 normal images each
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]  # nothing is written
    changes = {
        "model__weights": str(tmp_path / "absent.pth"),
        "resources__cpus_per_worker": 999,
        "resources__feature_cache_gb": 1e9,
    }
    tiny.write_params(params, tiny.params_tree(tmp_path / "nowhere", **changes))
    result = run("clflow", "doctor", "--json", "--params", str(params), stderr=subprocess.PIPE)
    assert result.returncode == 2
    findings = json.loads(result.stdout)
    for check, words in (
        ("weights", "absent.pth"),
        ("datasets", "nowhere"),
        ("resources", "cpus_per_worker"),
        ("paths", "feature_cache_gb"),
    ):
        (wrong,) = [found["message"] for found in findings if (found["check"], found["verdict"]) == (check, "wrong")]
        assert words in wrong
