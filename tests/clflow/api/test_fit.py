"""From a folder to a detector, to predictions and a graph: the route of a user of the library."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clflow
from clflow.metrics import METRICS
from clflow.rates import AT_THRESHOLD
from tests import tiny


def budget(**sections: Any) -> dict[str, Any]:
    """A tiny budget, without saying which images."""
    tree = tiny.params_tree(Path("anywhere"))
    return {name: values for name, values in tree.items() if name not in ("benchmark", "data")} | sections


@pytest.fixture(scope="module")
def disc(tiny_source: Path) -> Path:
    return tiny_source / "disc"


@pytest.fixture(scope="module")
def kept(disc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that was trained on the tiny images, in a folder."""
    folder = tmp_path_factory.mktemp("fit") / "disc"
    points: list[dict[str, float]] = []
    clflow.fit(disc, out=folder, params=budget(), progress=points.append)
    assert [point["step"] for point in points] == [4, 8]
    return folder


@pytest.fixture(scope="module")
def detector(kept: Path) -> clflow.Detector:
    return clflow.load(kept)


def test_paths_arrays_and_pictures_are_scored_alike(detector: clflow.Detector, disc: Path):
    paths = sorted((disc / "test" / "hole").iterdir())
    pictures = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture) for picture in pictures]
    expected = [prediction.score for prediction in detector.predict(paths)]
    for images in (map(str, paths), pictures, arrays, np.stack(arrays), disc / "test" / "hole"):
        assert [prediction.score for prediction in detector.predict(images)] == expected
    for one in (paths[0], arrays[0], pictures[0]):
        (prediction,) = detector.predict(one)
        assert prediction.score == pytest.approx(expected[0], rel=1e-4)


def test_a_prediction_has_verdict_map_and_overlay_of_the_images_own_size(detector: clflow.Detector):
    image = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    (prediction,) = detector.predict(image)
    assert prediction.threshold == detector.threshold
    assert prediction.is_anomalous == (prediction.score > detector.threshold)
    assert prediction.map.shape == (40, 90) and prediction.map.dtype == np.float32
    assert prediction.overlay().size == (90, 40) and prediction.overlay().mode == "RGB"
    assert prediction.path is None


def test_modes_of_pictures_are_read_as_from_files(detector: clflow.Detector, tmp_path: Path):
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (64, 64), np.uint16))
    grey.save(tmp_path / "grey.png")
    in_memory, from_file = detector.predict([grey, tmp_path / "grey.png"])
    assert in_memory.score == pytest.approx(from_file.score, rel=1e-4)


def test_what_is_no_image_is_refused(detector: clflow.Detector, tmp_path: Path):
    for wrong in (np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), [np.zeros((8, 8), np.uint8)]):
        with pytest.raises(clflow.ClflowError, match=r"must be RGB, uint8 \(H, W, 3\)"):
            detector.predict(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(clflow.ClflowError, match="holds no images"):
        detector.predict(tmp_path)


def test_metrics_of_judged_images(detector: clflow.Detector, disc: Path):
    metrics = clflow.evaluate(detector, disc)
    assert metrics.keys() == {*METRICS, *AT_THRESHOLD}
    assert all(0 <= value <= 1 for value in metrics.values())
    hole = [prediction.is_anomalous for prediction in detector.predict(disc / "test" / "hole")]
    assert metrics["misses"] == 1 - np.mean(hole)


def test_without_masks_there_are_no_pixel_metrics(detector: clflow.Detector, disc: Path, tmp_path: Path):
    shutil.copytree(disc / "test", tmp_path / "disc" / "test")
    assert clflow.evaluate(detector, tmp_path / "disc").keys() == {
        *("image_auroc", "image_ap", "image_f1max"),
        *AT_THRESHOLD,
    }


def test_a_graph_says_what_the_detector_says(detector: clflow.Detector, disc: Path, tmp_path: Path):
    detector.export(tmp_path / "graph", "torch")
    graph = clflow.load(tmp_path / "graph")
    paths = sorted((disc / "test" / "hole").iterdir())
    for ours, theirs in zip(detector.predict(paths), graph.predict(paths), strict=True):
        assert theirs.score == pytest.approx(ours.score, rel=1e-3)
        np.testing.assert_allclose(theirs.map, ours.map, rtol=1e-3, atol=1e-3)
    with pytest.raises(clflow.ClflowError, match="is a graph already"):
        graph.export(tmp_path / "again", "torch")
    graph.save(tmp_path / "saved")
    assert clflow.load(tmp_path / "saved").threshold == graph.threshold


def test_what_is_saved_is_loaded(detector: clflow.Detector, kept: Path, tmp_path: Path):
    detector.save(tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {path.name for path in kept.iterdir()}
    assert clflow.load(tmp_path / "copy").threshold == detector.threshold
    with pytest.raises(clflow.ClflowError, match="copy exists"):
        detector.save(tmp_path / "copy")


def test_without_a_folder_the_detector_lives_as_long_as_its_object(disc: Path, tmp_path: Path):
    paths = sorted((disc / "train" / "good").iterdir())
    (tmp_path / "own.yaml").write_text(json.dumps(budget(extends="offline")))
    detector = clflow.fit(paths, params=tmp_path / "own.yaml", seed=3)
    folder = detector._folder
    assert folder.is_dir()
    detector.save(tmp_path / "kept")
    del detector
    assert not folder.exists()
    record = json.loads((tmp_path / "kept" / "cell.json").read_text())
    assert (record["category"], record["seed"], record["train_images"]) == ("good", 3, tiny.TRAIN)


def test_the_same_call_gives_the_same_detector(kept: Path, disc: Path, tmp_path: Path):
    clflow.fit(disc, out=tmp_path / "again", params=budget())
    for name in ("scorer.safetensors", "config.json", "cell.json"):
        assert (tmp_path / "again" / name).read_bytes() == (kept / name).read_bytes()


def test_what_is_odd_about_images_is_a_warning(disc: Path, tmp_path: Path):
    odd = Path(shutil.copytree(disc, tmp_path / "disc"))
    Image.new("L", (tiny.SIZE, tiny.SIZE)).save(odd / "ground_truth" / "hole" / "001_mask.png")
    Image.new("L", (tiny.SIZE, tiny.SIZE)).save(odd / "train" / "good" / "a.gif")
    absent = {"model": {"weights": "absent.pth"}}
    with pytest.warns(UserWarning) as warned, pytest.raises(clflow.ClflowError, match=r"absent\.pth"):
        clflow.fit(odd, params=absent)
    assert [str(warning.message).partition(";")[0] for warning in warned] == [
        "masks that are all black: 1, first disc/ground_truth/hole/001_mask.png",
        "image files that are ignored (1 .gif): 1, first disc/train/good/a.gif",
    ]


def test_what_is_there_is_not_replaced(disc: Path, kept: Path):
    with pytest.raises(clflow.ClflowError, match="disc exists; name another folder"):
        clflow.fit(disc, out=kept, params=budget())


def test_the_default_backbone_gives_way_where_no_hub_answers_and_says_so(disc: Path, tmp_path: Path):
    small = budget()
    del small["model"]
    with pytest.warns(UserWarning, match=r"wide_resnet50_2.* tf_efficientnet_lite2 is used instead"):
        clflow.fit(disc, out=tmp_path / "out", params=small)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model"]["hidden_ratio"] == 1.0
    said = r"resnet18\.tv_in1k was not downloaded before"
    with warnings.catch_warnings(), pytest.raises(clflow.ClflowError, match=said):
        warnings.simplefilter("error")
        clflow.fit(disc, params=small | {"model": {"backbone": "resnet18.tv_in1k"}})


def test_a_model_of_a_registry_is_referred_to_the_workflow():
    with pytest.raises(clflow.ClflowError, match=r"belongs to the workflow.*local_folder"):
        clflow.load("models:/clflow-mvtec_ad-bottle@champion")
