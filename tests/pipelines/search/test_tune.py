"""Search with the real Ray Tune, Optuna and MLflow: blind to test images, resumable, and used by the benchmark."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from clflow.config.params import Params, load
from clflow.errors import ClflowError, DataError, ParameterError
from pipelines.benchmark import prepare
from pipelines.search.study import OBJECTIVE, Record, Search, best, present_values, require_replaceable, write_found
from pipelines.stages import fetch, synthesize, tune
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import Plan, plan_cells
from tests import tiny
from tests.pipelines.command import BIN, run
from tests.pipelines.interruption import SAID, end, start
from tests.waiting import wait_until

SPACE = {
    "loss.contrast": {"choice": [0.0, 0.1, 1.0]},
    "model.coupling_steps": {"integer": [1, 4]},
    "train.learning_rate": {"log_uniform": [0.001, 0.03]},
}


def write(workspace: Workspace, source: Path, space: dict[str, Any] = SPACE, **changes: Any) -> Params:
    """The workspace's parameters."""
    tree = tiny.params_tree(source, tune__space=space, **{"tune__grace": 1, **changes})
    return load(tiny.write_params(workspace.params, tree))


@pytest.fixture(scope="module")
def prepared(
    tiny_source: Path, database: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """A workspace that has everything but its test images; copied by every test."""
    workspace = Workspace(tmp_path_factory.mktemp("search"))
    shutil.copy(database, workspace.mlflow_database)
    params = write(workspace, tiny_source)
    fetch.run(params, "folder", workspace)
    synthesize.run(params, "folder", workspace)
    for category in tiny.CATEGORIES:
        shutil.rmtree(workspace.data("folder") / category / "test")
        shutil.rmtree(workspace.data("folder") / category / "ground_truth")
    return workspace


@pytest.fixture
def workspace(prepared: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(prepared.root, tmp_path / "workspace"))


def search_of(params: Params, workspace: Workspace, categories: tuple[str, ...] = tiny.CATEGORIES) -> Search:
    return Search.of(Plan(params, "folder", workspace), categories)


def record(number: int, state: Any, objective: float, **values: Any) -> Record:
    return Record(number, state, values, [{"step": 4, OBJECTIVE: objective}], 1.0, None)


def test_best_is_the_first_of_the_highest_that_were_trained_to_the_end():
    trials = [
        record(0, "finished", 0.8),
        record(1, "stopped", 0.99),
        record(2, "finished", 0.9),
        record(3, "finished", 0.9),
        Record(4, "failed", {}, [], 1.0, "diverged"),
    ]
    found = best(trials)
    assert found is not None and found.number == 2
    assert best(trials[1:2]) is None


def test_what_is_found_is_trained_beside_the_default(workspace: Workspace, tiny_source: Path):
    params = write(workspace, tiny_source, benchmark__methods=["clflow"])
    plain = plan_cells(params, workspace)
    search = search_of(params, workspace)
    search.keep(record(0, "finished", 0.7, **present_values(params)))
    search.keep(record(1, "finished", 0.8, **{"loss.contrast": 1.0, "model.coupling_steps": 3}))
    target = workspace.tuned("folder")
    write_found([search], False, params, target)
    assert "Nothing better" not in target.read_text()
    table = pd.read_csv(target.with_suffix(".csv"))
    assert table[OBJECTIVE].tolist() == [0.7, 0.8]

    methods = ["clflow", "clflow-tuned"]
    tree = tiny.params_tree(tiny_source, tune__space=SPACE, tune__grace=1, benchmark__methods=methods)
    tree["tuned"] = "tuned/folder.yaml"
    both = load(tiny.write_params(workspace.params, tree))
    planned = plan_cells(both, workspace)
    assert [cell for cell in planned if cell.method == "clflow"] == plain
    assert len({cell.key for cell in planned}) == 2 * len(plain)
    own = both.for_category("folder", "disc", "clflow-tuned")
    assert (own.loss.contrast, own.model.coupling_steps) == (1.0, 3)
    assert own.train == params.train
    # A search begins from what the file says without what an earlier search found.
    assert search_of(both, workspace).key == search.key


def test_a_search_is_named_by_all_that_determines_its_trials(workspace: Workspace, tiny_source: Path):
    def key(categories: tuple[str, ...] = tiny.CATEGORIES, **changes: Any) -> str:
        return search_of(write(workspace, tiny_source, **changes), workspace, categories).key

    assert key(tune__trials=99, tune__timeout=5.0, benchmark__seeds=[7]) == key()
    others = [
        key(("disc",)),
        key(tune__seeds=[1]),
        key(tune__method="fastflow"),
        key(train__steps=9),
        key(space={"loss.contrast": {"choice": [0.1, 0.2]}}),
    ]
    assert len({key(), *others}) == 1 + len(others)


def test_what_cannot_be_searched_is_one_sentence(workspace: Workspace, tiny_source: Path):
    params = write(workspace, tiny_source, {"loss.contrast": {"uniform": [0.5, 1.0]}})
    with pytest.raises(ParameterError, match=r"tune\.space\.loss\.contrast does not contain the present value 0\.1"):
        tune.run(params, "folder", workspace)
    (workspace.root / "tuned").mkdir()
    (workspace.root / "tuned" / "folder.yaml").write_text("parameters: {}")
    with pytest.raises(ClflowError, match=r"tuned/folder\.yaml or its table was not written by `clflow tune`"):
        tune.run(write(workspace, tiny_source), "folder", workspace)
    with pytest.raises(DataError, match="no images of category 'disk'"):
        tune.run(write(workspace, tiny_source), "folder", workspace, ("disk",))


def test_interrupted_search_leaves_the_better_result_and_goes_on(workspace: Workspace, tiny_source: Path):
    params = write(workspace, tiny_source, tune__trials=4, train__steps=100, train__eval_points=4)
    search = search_of(params, workspace)
    earlier = Search(search.dataset, search.categories, search.key, workspace.root / "earlier")
    earlier.keep(record(0, "finished", 1.0, **present_values(params)))
    write_found([earlier], False, params, workspace.tuned("folder"))
    better = workspace.tuned("folder").read_bytes()
    log = workspace.root / "log"
    process = start(str(BIN / "clflow"), "tune", "--dataset", "folder", folder=workspace.root, log=log)
    wait_until(lambda: len(search.records()) >= 2, process, log)
    end(process, signal.SIGINT, group=True)
    said = log.read_text()
    assert said.splitlines()[-1] == SAID and "Traceback" not in said
    assert workspace.tuned("folder").read_bytes() == better
    before = {path: path.stat().st_mtime_ns for path in search.folder.glob("0*.json")}
    assert 2 <= len(before) < 4

    target = tune.run(params, "folder", workspace)
    records = search.records()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len({r.number for r in records}) == len(records) == 4
    assert records[0].values == present_values(params)
    for r in records:
        assert all(params.tune.space[key].contains(value) for key, value in r.values.items())
        assert len(r.curve) == 4 if r.state == "finished" else len(r.curve) < 4
        last = r.curve[-1]
        assert last[OBJECTIVE] == pytest.approx((last[f"{OBJECTIVE}.disc"] + last[f"{OBJECTIVE}.stripes"]) / 2)
    winner = best(records)
    assert winner is not None
    tree = tiny.params_tree(tiny_source, benchmark__methods=["clflow-tuned"], tune__space=SPACE)
    tree["tuned"] = str(target)
    tuned = load(tiny.write_params(workspace.root / "with.yaml", tree)).for_category("folder", "disc", "clflow-tuned")
    assert tuned.train.learning_rate == winner.values["train.learning_rate"]

    tune.run(params, "folder", workspace)  # nothing is left to try, and MLflow must not get a trial twice
    assert search.records() == records
    client = mlflow.MlflowClient(f"sqlite:///{workspace.mlflow_database}")
    experiment = client.get_experiment_by_name("clflow")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["clflow.role"] == "search"]
    trials = [run for run in runs if run.data.tags["clflow.role"] == "trial"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    logged = {int(str(run.info.run_name).removeprefix("trial ")): run for run in trials}
    assert len(trials) == 4 and logged.keys() == set(range(4))
    for r in records:
        assert logged[r.number].data.metrics[OBJECTIVE] == r.objective
        assert logged[r.number].data.params["train.learning_rate"] == str(r.values["train.learning_rate"])


def test_stage_goes_on_with_a_search_and_training_takes_what_it_found(
    tiny_source: Path, database: Path, tmp_path: Path
):
    changes = {"tune__space": SPACE, "tune__trials": 2, "tune__grace": 1, "tune__datasets": ["folder"]}
    tree = tiny.params_tree(tiny_source, benchmark__methods=["clflow"], **changes)
    found = {"loss.contrast": 1.0, "model.coupling_steps": 3, "train.learning_rate": 0.02}
    bench = Workspace(tmp_path / "bench")

    prepare(tiny.write_params(tmp_path / "tiny.yaml", tree), bench.root)
    shutil.copy(database, bench.mlflow_database)
    params = load(bench.params)
    fetch.run(params, "folder", bench)
    search = search_of(params, bench)
    search.keep(record(0, "finished", 0.0, **present_values(params)))
    search.keep(record(1, "finished", 0.1, **found))
    result = run("dvc", "repro", "tune@folder", cwd=bench.root)
    assert result.returncode == 0, result.stdout
    written = bench.tuned("folder").read_text()
    tree["benchmark"]["methods"] = ["clflow", "clflow-tuned"]
    prepare(tiny.write_params(tmp_path / "tiny.yaml", tree | {"tuned": "bench/tuned/folder.yaml"}), bench.root)
    assert bench.tuned("folder").read_text() == written
    planned = Plan(load(bench.params), "folder", bench).trained
    learned = {cell.method: inputs["parameters"]["train.learning_rate"] for cell, inputs in planned.items()}
    assert learned == {"clflow": tree["train"]["learning_rate"], "clflow-tuned": 0.02}


def test_what_a_search_found_is_replaced_unless_it_was_edited(
    workspace: Workspace, tiny_source: Path, capsys: pytest.CaptureFixture[str]
):
    params = write(workspace, tiny_source)
    search = Search.of(Plan(params, "folder", workspace), tiny.CATEGORIES)
    search.keep(record(0, "finished", 0.7, **present_values(params)))
    target = workspace.tuned("folder")
    write_found([search], False, params, target)
    assert "whose validation is 0.7000" in capsys.readouterr().out
    assert "Nothing better than the present parameters was found" in target.read_text()
    require_replaceable(target)
    target.write_text(target.read_text().replace("0.7", "0.9"))
    with pytest.raises(ClflowError, match="was edited since; move both to another name"):
        require_replaceable(target)
    target.unlink()
    with pytest.raises(ClflowError, match="or its table"):
        require_replaceable(target)


def test_each_category_alone_survives_trials_that_diverge(workspace: Workspace, tiny_source: Path):
    space = {"train.learning_rate": {"choice": [0.01, 1e29, 1e30, 1e31]}}
    params = write(workspace, tiny_source, space, tune__trials=2)
    known = search_of(params, workspace, ("stripes",))
    known.keep(record(0, "finished", 0.7, **present_values(params)))
    known.keep(Record(1, "failed", {"train.learning_rate": 1e30}, [], 1.0, "diverged"))
    target = tune.run(params, "folder", workspace, each=True)
    records = search_of(params, workspace, ("disc",)).records()
    assert [r.state for r in records] == ["finished", "failed"] and records[0].values == present_values(params)
    assert "diverged" in str(records[1].error)
    tree = tiny.params_tree(tiny_source, benchmark__methods=["clflow-tuned"])
    tree["tuned"] = str(target)
    tuned = load(tiny.write_params(workspace.root / "with.yaml", tree))
    assert all(tuned.is_tuned_alone("folder", category, "clflow-tuned") for category in tiny.CATEGORIES)
    assert tuned.for_category("folder", "disc", "clflow-tuned").train.learning_rate == 0.01


def test_search_without_any_result_is_an_error(workspace: Workspace, tiny_source: Path):
    params = write(
        workspace,
        tiny_source,
        train__learning_rate=1e30,
        tune__trials=1,
        space={"train.learning_rate": {"choice": [1e30, 1e31]}},
    )
    with pytest.raises(ClflowError, match=r"no trial of folder \(disc, stripes\) finished: training diverged"):
        tune.run(params, "folder", workspace)
    assert not workspace.tuned("folder").exists()


def test_trials_that_the_timeout_cuts_are_not_remembered(workspace: Workspace, tiny_source: Path):
    params = write(workspace, tiny_source, tune__trials=2, train__steps=20000, train__eval_points=2, tune__timeout=0.1)
    with pytest.raises(ClflowError, match="give it more time"):
        tune.run(params, "folder", workspace)
    assert search_of(params, workspace).records() == []
