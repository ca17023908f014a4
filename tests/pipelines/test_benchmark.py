"""A workspace belongs to one parameter file, and a folder that is none is left alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from clflow.errors import ClflowError
from pipelines.benchmark import prepare
from tests import tiny
from tests.pipelines.command import refusal


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a parameter file and its workspace; to be copied."""
    folder = tmp_path_factory.mktemp("made")
    prepare(tiny.write_params(folder / "tiny.yaml", tiny.params_tree(Path("source"))), folder / "workspace")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy", symlinks=True))


def steps(workspace: Path) -> int:
    return YAML(typ="safe").load(workspace / "params.yaml")["train"]["steps"]


def with_steps(path: Path, number: int) -> Path:
    return tiny.write_params(path, tiny.params_tree(Path("source"), train__steps=number))


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml", ".dvc", "runs", "clflow"])
def test_a_folder_of_somebody_else_is_refused_and_unchanged(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    params, theirs = with_steps(tmp_path / "tiny.yaml", 8), tmp_path / "theirs"
    (theirs / name).mkdir(parents=True) if name in (".dvc", "runs") else (theirs.mkdir(), (theirs / name).touch())
    options = "benchmark", "--params", str(params), "--workspace", str(theirs)
    said = refusal(*options, monkeypatch=monkeypatch, capsys=capsys)
    assert said.startswith(f"{theirs} holds {name}, but is no workspace that `clflow benchmark` made")
    assert [path.name for path in theirs.rglob("*")] == [name]


def test_a_change_of_the_parameter_file_reaches_its_workspace(folder: Path):
    prepare(with_steps(folder / "tiny.yaml", 9), folder / "workspace")
    assert steps(folder / "workspace") == 9


def test_an_edited_copy_is_not_overwritten(folder: Path):
    params, workspace = folder / "tiny.yaml", folder / "workspace"
    copy = workspace / "params.yaml"
    prepare(params, workspace)  # its paths are of this folder now
    copy.write_text(copy.read_text().replace("steps: 8", "steps: 10"))
    with pytest.raises(ClflowError, match=rf"{copy} was edited .* from {params}, .* run `dvc repro` in {workspace}"):
        prepare(params, workspace)
    assert steps(workspace) == 10
    prepare(with_steps(params, 10), workspace)  # the edit is made in the parameter file
    assert steps(workspace) == 10
    copy.write_text(copy.read_text().replace("steps: 10", "steps: 11"))
    copy.unlink()  # or is given up
    prepare(params, workspace)
    assert steps(workspace) == 10
    (workspace / "dvc.yaml").write_text("stages: {}")
    with pytest.raises(ClflowError, match=r"workspace/dvc\.yaml was edited"):
        prepare(params, workspace)


def test_a_workspace_of_another_parameter_file_is_refused(folder: Path):
    params, workspace = folder / "tiny.yaml", folder / "workspace"
    other = with_steps(folder / "other.yaml", 9)
    with pytest.raises(ClflowError, match=rf"{workspace} belongs to {params}, not to {other}"):
        prepare(other, workspace)
    assert steps(workspace) == 8


def test_what_is_moved_belongs_together_still(folder: Path):
    params, workspace = folder / "tiny.yaml", folder / "workspace"
    prepare(params.rename(folder / "renamed.yaml"), workspace)
    prepare(with_steps(folder / "renamed.yaml", 9), workspace.rename(folder / "moved"))
    assert steps(folder / "moved") == 9


def test_a_workspace_that_cannot_be_one_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for params, workspace, sentence in (
        (folder / "tiny.yaml", folder / "tiny.yaml", f"{folder}/tiny.yaml is no folder; name another --workspace."),
        (folder / "tiny.yaml", folder / "tiny.yaml" / "run", f"{folder}/tiny.yaml is no folder; name another"),
        (folder, folder / "run", f"{folder} is a folder; name a parameter file in it."),
    ):
        options = "benchmark", "--params", str(params), "--workspace", str(workspace)
        assert refusal(*options, monkeypatch=monkeypatch, capsys=capsys).startswith(sentence)


def test_another_benchmark_in_the_workspace_is_waited_for_and_then_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    workspace = folder / "workspace"
    lock = workspace / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(exist_ok=True)
    monkeypatch.setattr("pipelines.benchmark.PATIENCE_S", 0.5)
    with subprocess.Popen(["sleep", "60"]) as other:
        held = {"write": {str(workspace / "data"): {"pid": other.pid, "cmd": "dvc repro"}}}
        lock.write_text(json.dumps(held))
        options = "benchmark", "--params", str(folder / "tiny.yaml"), "--workspace", str(workspace)
        said = refusal(*options, monkeypatch=monkeypatch, capsys=capsys)
        assert said.startswith(f"another benchmark works in {workspace} (process {other.pid}); wait until it ends")
        other.kill()
    # Its lock is nobody's now, so DVC starts, and what stops it is told with exit code 2.
    for left in (held, {}):  # DVC leaves the latter when it ends
        lock.write_text(json.dumps(left))
        said = refusal(*options, monkeypatch=monkeypatch, capsys=capsys)
        assert said.startswith(f"the benchmark in {workspace} stopped for the reason above")


def test_make_names_what_is_missing():
    for given, missing in ((["PARAMS=x"], "the folder to work in"), (["WORKSPACE=x"], "the parameter file")):
        made = subprocess.run(
            ["make", "benchmark", *given],
            cwd=tiny.ROOT,
            env={key: value for key, value in os.environ.items() if key not in ("PARAMS", "WORKSPACE")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 2
        assert made.stderr.startswith(f"error: name {missing}: make benchmark PARAMS=<file> WORKSPACE=<dir>")
