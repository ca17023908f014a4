"""Exported graphs say what the detector says, in every format, for any number of images."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clflow import export as exporting
from clflow.calibration import Thresholds
from clflow.data.images import resize_to_square
from clflow.errors import ClflowError, DataError, ParameterError
from clflow.export import FORMATS, TOLERANCE, Format, Graph, export, load
from clflow.files import read_json, write_json
from clflow.model.detector import Detector
from clflow.precision import computes_bfloat16

SIZE = 64


@pytest.fixture(autouse=True)
def _decide_half(detector: Detector):
    """Put the thresholds in the middle of what is scored, so that verdicts of both kinds are compared."""
    maps, scores = detector(torch.from_numpy(images(16)))
    detector.thresholds = Thresholds(float(scores.median()), float(maps.median()), 0.0, (0.0,))


@pytest.fixture(scope="module")
def kept() -> dict[Format, Path]:
    """Graphs that a test has exported, for the others; not to be changed."""
    return {}


@pytest.fixture
def exported(
    detector: Detector, kept: dict[Format, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Format], Path]:
    def once(to: Format) -> Path:
        if to not in kept:
            folder = tmp_path_factory.mktemp("exported") / to
            worst = export(detector, to, folder)
            assert read_json(folder / "export.json")["largest_difference"] == worst
            kept[to] = folder
        return kept[to]

    return once


def images(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("to", FORMATS)
def test_graph_says_what_the_detector_says(
    detector: Detector, exported: Callable[[Format], Path], to: Format, monkeypatch: pytest.MonkeyPatch
):
    graph = exported(to)
    monkeypatch.setattr(exporting, "images_at_once", lambda size: 2)  # so that five take three calls
    assert read_json(graph / "export.json")["largest_difference"] <= TOLERANCE
    inspect = load(str(graph), threads=1)
    for count in (1, 5):
        with torch.inference_mode():
            scores, anomalous, maps, masks = (part.numpy() for part in Graph(detector)(torch.from_numpy(images(count))))
        found = inspect(images(count))
        assert found.maps.shape == (count, SIZE, SIZE) and found.scores.shape == (count,)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.maps, maps, rtol=1e-4, atol=1e-4)
        assert found.anomalous.dtype == bool and found.masks.dtype == bool
        clear = abs(maps - detector.thresholds.pixel) > 1e-3
        assert (found.masks == masks)[clear].all() and 0 < masks.mean() < 1
        np.testing.assert_array_equal(found.anomalous, anomalous)


@pytest.mark.parametrize("to", FORMATS)
def test_graph_squashes_images_of_any_size_as_the_detector_sees_them(
    detector: Detector, exported: Callable[[Format], Path], to: Format
):
    inspect = load(exported(to), threads=1)
    for height, width in ((2 * SIZE + 1, 3 * SIZE), (SIZE, 4 * SIZE), (SIZE // 2, SIZE - 1)):
        raw = images(2, height, width)
        found, seen = inspect(raw), inspect(np.stack([resize_to_square(Image.fromarray(image), SIZE) for image in raw]))
        assert found.maps.shape == (2, SIZE, SIZE)
        np.testing.assert_allclose(found.scores, seen.scores, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found.maps, seen.maps, rtol=5e-3, atol=5e-3)  # a pixel may be rounded otherwise


def test_graph_that_says_something_else_is_not_kept(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    honest = exporting._LOADERS["torch"]

    def biased(path: Path, threads: int | None, precision: exporting.Precision) -> exporting._Loaded:
        inspect = honest(path, threads, precision).inspect
        return exporting._Loaded(lambda images: inspect(images)._replace(scores=inspect(images).scores + 0.01))

    monkeypatch.setitem(exporting._LOADERS, "torch", biased)
    with pytest.raises(ClflowError, match="differs from the detector by"):
        export(detector, "torch", tmp_path / "graph")
    assert not list(tmp_path.iterdir())


def test_missing_runtime_is_one_sentence(detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ParameterError, match=r"openvino.*pip install 'clflow\[export\]'"):
        export(detector, "openvino", tmp_path / "graph")
    assert not list(tmp_path.iterdir())


def test_folder_without_a_graph_and_precision_without_support_are_refused(
    exported: Callable[[Format], Path], tmp_path: Path
):
    with pytest.raises(DataError, match="holds no exported detector"):
        load(tmp_path)
    graph = exported("torch")
    with pytest.raises(ParameterError, match="bfloat16 is for openvino"):
        load(graph, precision="bfloat16")
    old = shutil.copytree(graph, tmp_path / "old")
    config = read_json(old / "export.json")
    write_json(old / "export.json", {key: config[key] for key in config if key != "thresholds"})
    with pytest.raises(DataError, match="holds no exported detector, or an old one"):
        load(old)


@pytest.mark.skipif(computes_bfloat16(torch.device("cpu")), reason="this processor computes in bfloat16")
def test_bfloat16_is_refused_by_a_processor_without_it(exported: Callable[[Format], Path]):
    with pytest.raises(ParameterError, match="this processor has no bfloat16"):
        load(exported("openvino"), precision="bfloat16")


@pytest.mark.parametrize("to", FORMATS)
def test_damaged_or_missing_graph_is_one_sentence(tmp_path: Path, to: Format):
    limits = asdict(Thresholds(1.0, 1.0, 0.0, (0.5,)))
    write_json(tmp_path / "export.json", {"format": to, "image_size": SIZE, "thresholds": limits})
    path = tmp_path / exporting._FILES[to]
    for damage in (lambda: None, lambda: path.write_bytes(b"no graph")):
        damage()
        with pytest.raises(DataError, match=f"{path.name} is missing or damaged.*export it again"):
            load(tmp_path)
