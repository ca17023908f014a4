"""Stage ``evaluate``: what it cannot read is named in a sentence, and what was scored stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clflow.errors import CellError, DataError
from pipelines.stages import evaluate
from pipelines.workspace.cells import EVAL_WEIGHTS, Selection
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


def test_selected_cells_are_scored_and_others_need_not_be_trained(finished: Path, ray_session: None, tmp_path: Path):
    trained = Trained.unregistered(shutil.copytree(finished, tmp_path / "workspace", symlinks=True))
    before = trained.scores("disc")
    shutil.rmtree(trained.workspace.scores("folder"))
    shutil.rmtree(trained.folder("stripes"))
    with pytest.raises(CellError, match=r"1 cells of folder are not trained \(stripes-clflow-s0"):
        evaluate.run(trained.params, "folder", trained.workspace)
    evaluate.run(trained.params, "folder", trained.workspace, Selection(("disc",), ("clflow",), (0,)))
    assert list(trained.workspace.scores("folder").iterdir()) == [trained.score_folder("disc")]
    assert trained.scores("disc").equals(before)
