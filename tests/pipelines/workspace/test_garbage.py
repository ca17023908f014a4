"""Nothing is removed but by `clflow gc`, and it removes only what nobody asks for."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from clflow.config.params import load
from pipelines.workspace.garbage import leftovers, run
from pipelines.workspace.paths import Workspace
from tests import tiny


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Workspace:
    """A finished benchmark, of which the seed that was trained is not asked for any more."""
    copied = Path(shutil.copytree(finished, tmp_path / "workspace", symlinks=True))
    tree = tiny.params_tree(finished.parent / "source", benchmark__seeds=[1])
    tiny.write_params(copied / "params.yaml", tree)
    return Workspace(copied)


def names(workspace: Workspace) -> set[str]:
    return {path.relative_to(workspace.root).as_posix() for path in workspace.root.glob("*/folder/*") if path.is_dir()}


def test_what_is_asked_for_is_never_left_over(finished: Path):
    workspace = Workspace(finished)
    assert leftovers(load(workspace.params), workspace, 0) == []


def test_cells_and_scores_of_another_seed_are_listed_and_stay(workspace: Workspace, capsys: pytest.CaptureFixture[str]):
    before = names(workspace)
    run(load(workspace.params), workspace, 0, remove=False)
    listed, said = capsys.readouterr()
    assert listed.count("runs/folder/") == listed.count("scores/folder/") == 4
    assert "8 folders" in said and "MB" in said
    assert names(workspace) == before


def test_they_are_removed_if_told_so_and_nothing_else_is(workspace: Workspace):
    before = names(workspace)
    run(load(workspace.params), workspace, 0, remove=True)
    gone = before - names(workspace)
    assert {name.split("/")[0] for name in gone} == {"runs", "scores"}
    assert len(gone) == 8


def test_what_is_younger_than_the_days_to_keep_stays(workspace: Workspace):
    (old, *_) = workspace.runs("folder").glob("[!.]*")
    long_ago = time.time() - 10 * 86_400
    for path in (old, *old.rglob("*")):
        os.utime(path, (long_ago, long_ago))
    (found,) = leftovers(load(workspace.params), workspace, 7)
    assert found.path == old and 9 < found.age < 11 and found.size > 10_000


def test_set_of_a_category_that_is_no_longer_asked_for_is_left_over(workspace: Workspace):
    data = {"source": str(workspace.root.parent), "categories": ["stripes"]}
    params = load(tiny.write_params(workspace.params, tiny.params_tree(Path("x"), data__folder=data)))
    found = {
        each.path.parent.parent.name + "/" + each.path.name.split("-")[0] for each in leftovers(params, workspace, 0)
    }
    assert found == {"synthetic/disc", "runs/disc", "scores/disc"}
