"""`clflow list` and `clflow show`, for people and as JSON with keys that are documented."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clflow.files import write_json
from pipelines.cli import app
from pipelines.workspace.paths import Workspace
from tests import tiny
from tests.pipelines.command import refusal
from tests.pipelines.trained import Trained


def told(workspace: Workspace, *arguments: str) -> str:
    called = CliRunner().invoke(app, [*arguments, "--params", str(workspace.params)])
    assert called.exit_code == 0, called.output
    return called.stdout


def as_json(workspace: Workspace, *arguments: str) -> Any:
    return json.loads(told(workspace, *arguments, "--json"))


def test_every_state_of_a_cell_is_told(finished: Path, tmp_path: Path):
    trained = Trained.unregistered(shutil.copytree(finished, tmp_path / "workspace", symlinks=True))
    workspace = trained.workspace
    tree = tiny.params_tree(tmp_path, benchmark__methods=["clflow"], benchmark__seeds=[0, 1])
    tiny.write_params(workspace.params, tree)
    shutil.rmtree(trained.score_folder("disc"))
    shutil.rmtree(trained.folder("stripes"))
    write_json(workspace.failure(trained.cell("stripes")), {"reason": "CellError: out of memory"})
    cells = as_json(workspace, "list", "cells")
    assert [(cell["category"], cell["method"], cell["seed"], cell["state"]) for cell in cells] == [
        ("disc", "clflow", 0, "trained"),
        ("disc", "clflow", 1, "planned"),
        ("stripes", "clflow", 0, "failed"),
        ("stripes", "clflow", 1, "planned"),
        ("disc", "fastflow", 0, "leftover"),
        ("stripes", "fastflow", 0, "leftover"),
    ]
    disc, planned, failed, *_ = cells
    assert disc["folder"] == str(trained.folder("disc")) and disc["seconds"] > 0 and disc["reason"] is None
    assert planned["folder"] is planned["seconds"] is None
    assert failed["reason"] == "CellError: out of memory"
    head, *rows = told(workspace, "list").splitlines()
    assert head.split() == ["dataset", "category", "method", "seed", "state", "seconds", "name"]
    assert len(rows) == len(cells) and all(cell["name"] in row for cell, row in zip(cells, rows, strict=True))
    shown = as_json(workspace, "show", "stripes-clflow-s1")
    assert shown["record"] is shown["figures"] is shown["mlflow"] is None and shown["inputs"]["data"]


def test_results_and_models_are_listed(trained: Trained):
    results = as_json(trained.workspace, "list", "results")
    assert len(results) == 2 * 3  # methods, categories and their mean
    assert results[0]["n_seeds"] == 1 and results[0]["image_auroc_std"] is None
    models = as_json(trained.workspace, "list", "models", "--dataset", "folder")
    assert {model["name"] for model in models} == {f"clflow-folder-{category}" for category in tiny.CATEGORIES}
    (champion,) = [model for model in models if model["aliases"] == ["champion"] and "disc" in model["name"]]
    shown = as_json(trained.workspace, "show", "models:/clflow-folder-disc@champion")
    assert shown | champion == shown and "tags" in shown and shown["reference"].endswith(f"/{champion['version']}")
    assert "clflow-folder-disc" in told(trained.workspace, "list", "models")


def test_cell_is_shown_with_what_it_was_made_of_and_what_came_of_it(trained: Trained):
    workspace, cell = trained.workspace, trained.cell("disc")
    shown = as_json(workspace, "show", "disc-clflow-s0")
    assert shown["key"] == cell.key and shown["state"] == "scored"
    assert shown["inputs"]["parameters"]["train.steps"] == 8
    assert shown["record"]["train_seconds"] == shown["seconds"]
    assert 0 <= shown["figures"]["image_auroc"] <= 1
    assert shown["paths"] == {
        "run": str(workspace.run(cell)),
        "scores": str(workspace.score(cell)),
        "log": str(workspace.log(cell.name)),
    }
    run = trained.client.get_run(shown["mlflow"]["run"])
    assert run.info.run_name == cell.name and shown["mlflow"]["uri"] == trained.uri
    assert f"key: {cell.key}\n" in told(workspace, "show", cell.name)


def test_what_does_not_exist_is_one_sentence(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, words in (
        ("disc-clflow-s7", "there is no cell 'disc-clflow-s7'; there is disc-clflow-s0, "),
        ("models:/clflow-folder-disc@nobody", "models:/clflow-folder-disc@nobody is unavailable"),
    ):
        command = ("show", name, "--params", str(trained.workspace.params))
        assert words in refusal(*command, monkeypatch=monkeypatch, capsys=capsys)
