"""Predictions are those of the benchmark, whatever the images come from, and one bad image stops no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clflow.calibration import Rank
from clflow.data.images import read_image
from clflow.errors import ClflowError, DataError
from clflow.files import read_json
from clflow.heatmap import overlay
from clflow.score import upsample
from pipelines.inference import predict
from pipelines.inference.watch import Watch
from pipelines.registry.locate import registered_name
from tests import tiny
from tests.pipelines.command import refusal
from tests.pipelines.trained import Trained

DISC = registered_name("folder", "disc")


def stored(trained: Trained) -> pd.DataFrame:
    """What the benchmark says of the test images of disc, by their path below ``disc/test``, in order."""
    scores = trained.scores("disc")
    scores["path"] = scores["path"].str.removeprefix("disc/test/")
    return scores.sort_values("path", ignore_index=True)


def test_scores_are_those_of_the_benchmark(trained: Trained, tmp_path: Path):
    predict.run(str(trained.folder("disc")), str(trained.images / "disc" / "test"), tmp_path / "out", "csv")
    table, expected = pd.read_csv(tmp_path / "out" / "scores.csv"), stored(trained)
    threshold = read_json(trained.folder("disc") / "cell.json")["image_threshold"]
    assert list(table.columns) == ["path", "image_score", "threshold", "anomalous", "error"]
    assert list(table["path"]) == list(expected["path"])
    np.testing.assert_allclose(table["image_score"], expected["image_score"], rtol=1e-5)
    assert table["anomalous"].dtype == bool
    assert list(table["anomalous"]) == list(expected["image_score"] > threshold)
    assert table["threshold"].unique() == pytest.approx([threshold])
    drawn = {path.relative_to(tmp_path / "out" / "heat_maps").as_posix() for path in tmp_path.rglob("*.png")}
    assert drawn == set(expected["path"])

    (path,) = (tmp_path / "out" / "watch").glob("*.json")
    watch = Watch.read(path)
    assert (watch.model.category, watch.model.key) == ("disc", trained.cell("disc").key)
    assert list(watch.recent.values()) == pytest.approx(table["image_score"].tolist())
    predict.run(str(trained.folder("disc")), str(trained.images / "disc" / "test"), tmp_path / "out", "csv")
    assert Watch.read(path).statistics == watch.statistics  # an image counts once
    held_out = pd.read_csv(trained.folder("disc") / "held_out.csv")
    assert watch.model.reference == pytest.approx(held_out.loc[held_out["label"] == 0, "image_score"].tolist())


def test_threshold_by_hand_judges_and_is_recorded(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    images, model = str(trained.images / "disc" / "test"), str(trained.folder("disc"))
    expected = stored(trained)["image_score"]
    by_hand = float(np.median(expected.to_numpy()))
    command = ("predict", "--model", model, "--out", str(tmp_path / "out"), images)
    for given in ("nan", "inf"):
        said = refusal(*command, "--threshold", given, monkeypatch=monkeypatch, capsys=capsys)
        assert said == f"--threshold {given} is no number that a score can be compared with; correct it."
    assert not (tmp_path / "out").exists()
    predict.run(model, images, tmp_path / "out", "csv", by_hand)
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert table["threshold"].unique() == pytest.approx([by_hand])
    assert list(table["anomalous"]) == list(table["image_score"] > by_hand)
    threshold = read_json(trained.folder("disc") / "cell.json")["image_threshold"]
    assert f"anomalous at threshold {by_hand:.4g}, in place of {threshold:.4g};" in capsys.readouterr().out


def test_threshold_that_keeps_a_false_alarm_rate(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    images, model = str(trained.images / "disc" / "test"), str(trained.folder("disc"))
    command = ("predict", "--model", model, "--out", str(tmp_path / "out"), images)
    said = refusal(*command, "--false-alarm-rate", "0.001", monkeypatch=monkeypatch, capsys=capsys)
    assert "cannot keep a false alarm rate of 0.001; 999 are needed" in said
    predict.run(model, images, tmp_path / "out", "csv", false_alarm_rate=0.5)
    calibration = read_json(trained.folder("disc") / "config.json")["thresholds"]["calibration_scores"]
    (applied,) = pd.read_csv(tmp_path / "out" / "scores.csv")["threshold"].unique()
    assert applied == pytest.approx(Rank.keeping(0.5, len(calibration)).of(np.array(calibration)))


def test_heat_map_is_that_of_the_benchmark(trained: Trained, tmp_path: Path):
    scores, maps = trained.scores("disc"), np.load(trained.score_folder("disc") / "maps.npy")
    row = scores["path"].tolist().index("disc/test/hole/000.png")
    image = trained.images / "disc" / "test" / "hole" / "000.png"
    limits = read_json(trained.folder("disc") / "cell.json")
    score_map = upsample(maps[[row]], tiny.SIZE)[0]
    expected = overlay(read_image(image), score_map, limits["median_pixel_score"], limits["pixel_threshold"])
    predict.run(str(trained.folder("disc")), str(image), tmp_path / "out", "csv")
    drawn = read_image(tmp_path / "out" / "heat_maps" / "000.png")
    assert drawn.shape == expected.shape
    assert (np.abs(drawn.astype(int) - expected).max(axis=2) > 2).mean() < 0.01  # a line may move by rounding


@pytest.mark.parametrize(("own", "drawn"), [((600, 300), (600, 300)), ((predict.LONGEST * 2, 100), (1600, 50))])
def test_heat_map_is_as_large_as_its_image(
    trained: Trained, tmp_path: Path, own: tuple[int, int], drawn: tuple[int, int]
):
    Image.new("RGB", own, "grey").save(tmp_path / "wide.jpg")
    predict.run(str(trained.folder("disc")), str(tmp_path / "wide.jpg"), tmp_path / "out", "csv")
    with Image.open(tmp_path / "out" / "heat_maps" / "wide.png") as picture:
        assert picture.size == drawn


def test_several_sources_are_told_apart_by_the_folder_that_they_share(tiny_source: Path, tmp_path: Path):
    disc, stripes = (tiny_source / name / "test" for name in tiny.CATEGORIES)
    sources = [str(disc / "hole"), str(disc / "hole" / "00[01].png"), str(stripes / "good" / "001.png")]
    root, paths = predict.find_images(sources, tmp_path / "out")
    names = [path.relative_to(root).as_posix() for path in paths]
    assert names == [*(f"disc/test/hole/00{i}.png" for i in range(tiny.TEST)), "stripes/test/good/001.png"]
    with pytest.raises(DataError, match=r"nowhere holds no images"):
        predict.find_images([str(disc), str(tmp_path / "nowhere")], tmp_path / "out")


def test_images_of_kinds_that_are_not_read_are_counted(
    tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = Path(shutil.copytree(tiny_source / "disc" / "test" / "good", tmp_path / "line"))
    for name in ("a.gif", "b.GIF", "c.svg", "notes.txt"):
        (folder / name).touch()
    _, paths = predict.find_images([str(folder)], tmp_path / "out")
    assert len(paths) == tiny.TEST
    said = capsys.readouterr().err
    assert said == f"warning: {folder}: images of kinds that are not read are ignored (2 .gif, 1 .svg); convert them.\n"


def test_heat_maps_of_images_that_differ_in_extension_stay_apart():
    assert predict.name_heat_maps(["a/1.jpg", "a/2.PNG", "b/1.png"]) == {
        "a/1.jpg": "a/1.png",
        "a/2.PNG": "a/2.png",
        "b/1.png": "b/1.png",
    }
    images = ["1.jpg", "1.png", "1.jpg.png", "2.png"]
    assert len({*predict.name_heat_maps(images).values()}) == len(images)


def test_model_of_the_registry_predicts_the_same(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(trained.workspace.root)  # where mlflow.db lies
    images = str(trained.images / "disc" / "test" / "*" / "00[0-3].png")
    predict.run(f"models:/{DISC}@champion", images, tmp_path, "parquet")
    table, expected = pd.read_parquet(tmp_path / "scores.parquet"), stored(trained)
    assert list(table["path"]) == list(expected["path"])
    np.testing.assert_allclose(table["image_score"], expected["image_score"], rtol=1e-5)
    assert table["anomalous"].dtype == bool
    assert f"folder/disc: 8 images, {table['anomalous'].sum()} anomalous" in capsys.readouterr().out
    with pytest.raises(ClflowError, match=r"nobody@champion is unavailable from MLflow"):
        predict.run("models:/nobody@champion", images, tmp_path / "other", "csv")


def test_plain_folder_needs_no_mlflow_and_a_damaged_image_stops_no_other(trained: Trained, tmp_path: Path):
    shutil.copytree(trained.images / "disc" / "test" / "good", tmp_path / "line")
    cut = (tmp_path / "line" / "001.png").read_bytes()[:900]
    (tmp_path / "line" / "001.png").write_bytes(cut)
    script = """
import sys
from pipelines.cli import main
try:
    main()
finally:
    print(sorted({"mlflow", "ray", "dvc"} & sys.modules.keys()))
"""
    # Into the folder that is read: what was written must not be read as an image the next time.
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", script, "predict", "--model", str(trained.folder("disc")), "--out", "line", "line"],
            cwd=tmp_path,
            env={**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 2, result.stderr
        assert result.stdout.splitlines()[-1] == "[]"
        assert result.stderr.splitlines()[-1].startswith("error: 1 of 4 images could not be read")
        assert "001.png" in result.stderr and "Traceback" not in result.stderr
        table = pd.read_csv(tmp_path / "line" / "scores.csv")
        assert table["anomalous"].dtype == bool
        assert list(table["image_score"].isna()) == [False, True, False, False]
        assert list(table["error"].isna()) == [True, False, True, True]
        damaged = table.to_dict("records")[1]
        assert (damaged["path"], damaged["anomalous"]) == ("001.png", True)
        assert "truncated" in damaged["error"]
        assert not (tmp_path / "line" / "heat_maps" / "001.png").exists()
    (path,) = (tmp_path / "line" / "watch").glob("*.json")
    assert Watch.read(path).statistics.count == 3  # an image counts once


@pytest.mark.parametrize("source", ["empty", "nowhere", "empty/*.png", "empty/notes.txt"])
def test_no_image_is_one_sentence(trained: Trained, tmp_path: Path, source: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("not an image")
    with pytest.raises(DataError, match=r"holds no images"):
        predict.run(str(trained.folder("disc")), str(tmp_path / source), tmp_path / "out", "csv")
    assert not (tmp_path / "out").exists()


def test_wrong_model_or_target_is_one_sentence(trained: Trained, tmp_path: Path):
    images = str(trained.images / "disc" / "test")
    with pytest.raises(DataError, match=r"holds no trained detector"):
        predict.run(str(tmp_path), images, tmp_path / "out", "csv")
    (tmp_path / "file").touch()
    with pytest.raises(ClflowError, match=r"--out .*file is a file"):
        predict.run(str(trained.folder("disc")), images, tmp_path / "file", "csv")


def test_files_of_others_are_not_replaced_and_the_same_call_replaces_its_own(trained: Trained, tmp_path: Path):
    model, images, out = str(trained.folder("disc")), trained.images / "disc" / "test", tmp_path / "out"
    (out / "heat_maps" / "000.png").mkdir(parents=True)
    (out / "heat_maps" / "mine.txt").write_text("notes")
    (out / "scores.csv").write_text("mine")
    with pytest.raises(ClflowError, match=r"out/scores\.csv was not written by `clflow predict .*; move it away"):
        predict.run(model, str(images / "hole"), out, "csv")
    with pytest.raises(ClflowError, match=r"heat_maps/000\.png was not written by"):
        predict.run(model, str(images / "hole"), out, "parquet")
    assert (out / "scores.csv").read_text() == "mine"
    (out / "scores.csv").unlink()
    (out / "heat_maps" / "000.png").rmdir()

    for table_format in ("csv", "csv", "parquet"):
        predict.run(model, str(images / "hole"), out, table_format)
    assert not (out / "scores.csv").exists()
    for other in ((model, images / "good"), (str(trained.folder("stripes")), images / "hole")):
        with pytest.raises(ClflowError, match=r"scores\.parquet was written by `clflow predict .*hole`"):
            predict.run(other[0], str(other[1]), out, "parquet")
    assert len(pd.read_parquet(out / "scores.parquet")) == len(list((out / "heat_maps").glob("*.png"))) == 4
    assert (out / "heat_maps" / "mine.txt").read_text() == "notes"
