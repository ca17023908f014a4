"""Stage ``evaluate``: what it cannot read is named in a sentence, and what was scored stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clflow.errors import DataError
from pipelines.stages import evaluate
from pipelines.workspace.cells import EVAL_WEIGHTS
from tests.pipelines.trained import Trained


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def weights_of_an_evaluation(of: Trained) -> Path:
    return min((of.folder("disc") / EVAL_WEIGHTS).iterdir())


@pytest.mark.parametrize(
    ("find", "sentence"),
    [
        (weights_of_an_evaluation, r"^.*safetensors is damaged \(.*train.* again\.$"),
        (lambda at: at.folder("disc") / "scorer.safetensors", r"^.* no whole trained detector \(.*train.* again\.$"),
        (lambda at: next((at.images / "disc" / "test" / "good").iterdir()), r"^.*\.png.*\.$"),
    ],
)
def test_damaged_file_is_named(
    finished: Path, ray_session: None, tmp_path: Path, find: Callable[[Trained], Path], sentence: str
):
    trained = Trained.unregistered(shutil.copytree(finished, tmp_path / "workspace", symlinks=True))
    shutil.rmtree(trained.score_folder("disc"))
    before = trained.scores("stripes")
    cut(find(trained))
    with pytest.raises(DataError, match=sentence):
        evaluate.run(trained.params, "folder", trained.workspace)
    assert not trained.score_folder("disc").exists()
    assert trained.scores("stripes").equals(before)
