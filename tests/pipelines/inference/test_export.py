"""``clflow export`` writes what scores and predicts like the detector, and overwrites nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clflow.data.images import read_image
from clflow.errors import ClflowError
from clflow.export import load
from clflow.files import read_json
from pipelines.inference import export, predict
from pipelines.inference.watch import Model, Watch
from tests import tiny
from tests.pipelines.trained import Trained


def test_graph_scores_like_the_benchmark_and_a_file_that_somebody_put_to_it_stays(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for _ in range(2):  # the second replaces the first
        export.run(str(trained.folder("disc")), tmp_path / "graph", "torch")
    assert "torch, for RGB images" in capsys.readouterr().err
    scores = trained.scores("disc")
    images = np.stack([read_image(trained.images / path, tiny.SIZE) for path in scores["path"]])
    found = load(tmp_path / "graph")(images)
    np.testing.assert_allclose(found.scores, scores["image_score"], rtol=1e-4, atol=1e-4)
    threshold = read_json(trained.folder("disc") / "cell.json")["image_threshold"]
    np.testing.assert_array_equal(found.anomalous, scores["image_score"] > threshold)

    (tmp_path / "graph" / "precious.txt").write_text("keep")
    with pytest.raises(ClflowError, match="holds something else"):
        export.run(str(trained.folder("disc")), tmp_path / "graph", "torch")
    assert (tmp_path / "graph" / "precious.txt").exists()


def test_graph_predicts_like_its_detector(trained: Trained, tmp_path: Path):
    cell, images, tables = trained.folder("disc"), str(trained.images / "disc" / "test"), []
    export.run(str(cell), tmp_path / "graph", "onnx")
    for name, model in (("detector", cell), ("graph", tmp_path / "graph")):
        predict.run(str(model), images, tmp_path / name, "csv")
        tables.append(pd.read_csv(tmp_path / name / "scores.csv"))
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-4)
    heat_maps = [sorted((tmp_path / name / "heat_maps").rglob("*.png")) for name in ("detector", "graph")]
    for drawn, by_graph in zip(*heat_maps, strict=True):
        apart = np.abs(read_image(drawn).astype(int) - read_image(by_graph)).max(axis=2)
        assert (apart > 2).mean() < 0.01  # a line may move by rounding
    assert Watch.read(*(tmp_path / "graph").glob("watch/*.json")).model == Model.of_folder(cell)


def test_other_folder_is_not_replaced(trained: Trained, tmp_path: Path):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(ClflowError, match="holds something else"):
        export.run(str(trained.folder("disc")), tmp_path, "onnx")
    assert (tmp_path / "precious.txt").exists()
