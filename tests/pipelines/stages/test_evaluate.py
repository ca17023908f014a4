"""Stage ``evaluate``: what it cannot read is named in a sentence, and what was scored stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clflow.config.params import load
from clflow.errors import DataError
from pipelines.stages import evaluate
from pipelines.workspace import cells
from tests.pipelines.trained import Trained


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("find", "sentence"),
    [
        (lambda at: next((at.folder("disc") / "reports").iterdir()), r"^.*safetensors is damaged \(.*train.* again\.$"),
        (lambda at: at.folder("disc") / "scorer.safetensors", r"^.* no whole trained detector \(.*train.* again\.$"),
        (lambda at: next((at.images / "disc" / "test" / "good").iterdir()), r"^.*\.png.*\.$"),
    ],
)
def test_damaged_file_is_named(
    finished: Path, ray_session: None, tmp_path: Path, find: Callable[[Trained], Path], sentence: str
):
    workspace = shutil.copytree(finished, tmp_path / "workspace", symlinks=True)
    params = load(workspace / "params.yaml")
    trained = Trained(workspace, params, [cell for cell in cells.plan(params, workspace) if cell.method == "clflow"])
    shutil.rmtree(trained.score_folder("disc"))
    before = trained.scores("stripes")
    cut(find(trained))
    with pytest.raises(DataError, match=sentence):
        evaluate.run(params, "folder", workspace)
    assert not trained.score_folder("disc").exists()
    assert trained.scores("stripes").equals(before)
