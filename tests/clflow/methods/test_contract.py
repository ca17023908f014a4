"""The contract that every method fulfils, on real features of the tiny dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clflow.cache import FeatureCache
from clflow.data.images import read_image
from clflow.data.layout import scan
from clflow.data.manifest import category_rows
from clflow.errors import ParameterError
from clflow.fit import Worker, run
from clflow.fitdata import FitData, load_fit_data
from clflow.methods import METHODS, find_method
from clflow.model.detector import Detector
from clflow.model.features import FeatureGrid
from clflow.params import Params, load
from clflow.synthesis.category import synthesize_category
from tests import tiny

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"), parallel=lambda module: module)


@pytest.fixture(scope="module")
def params(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Params:
    tree = tiny.params_tree(tiny_source, train__steps=60, train__reports=2)
    return load(tiny.write_params(tmp_path_factory.mktemp("params") / "params.yaml", tree))


@pytest.fixture(scope="module")
def data(tiny_source: Path, params: Params, grid: FeatureGrid, tmp_path_factory: pytest.TempPathFactory) -> FitData:
    folder = tmp_path_factory.mktemp("method")
    rows = category_rows(scan(tiny_source, "disc", "good", True), "disc", "train")
    synthesize_category(tiny_source, rows, params, folder / "disc")
    cache = FeatureCache(folder / "cache", 1)
    return load_fit_data(grid, rows, tiny_source, folder / "disc", params, cache, "offline", ALONE.device)


@pytest.fixture(scope="module")
def scenes(tiny_source: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal and defective test images; nothing but these tests' assertions sees them."""
    good, bad = (
        torch.from_numpy(
            np.stack([read_image(path) for path in sorted((tiny_source / "disc" / "test" / kind).iterdir())])
        )
        for kind in ("good", "hole")
    )
    return good, bad


@pytest.mark.parametrize("name", METHODS)
class TestMethod:
    def fit(self, name: str, data: FitData, params: Params, grid: FeatureGrid, seed: int = 0) -> Detector:
        return run(find_method(name).fit(grid, data, params, seed, ALONE), lambda point, save: None)[0]

    def test_scores_defects_higher(self, name, data, params, grid, scenes):
        detector = self.fit(name, data, params, grid)
        good, bad = (detector.image_scores(detector(images)) for images in scenes)
        assert bad.min() > good.max()
        assert torch.isfinite(detector(scenes[1])).all()

    def test_same_seed_same_scores(self, name, data, params, grid, scenes):
        first, second, other = (self.fit(name, data, params, grid, seed)(scenes[0]) for seed in (0, 0, 1))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)

    def test_survives_a_round_trip(self, name, data, params, grid, scenes, tmp_path):
        detector = self.fit(name, data, params, grid)
        detector.save(tmp_path)
        assert torch.equal(Detector.load(tmp_path)(scenes[1]), detector(scenes[1]))

    def test_reports_curves_and_calibrates_without_scenes(self, name, data, params, grid):
        points: list[dict[str, float]] = []
        detector, history = run(
            find_method(name).fit(grid, data, params, 0, ALONE), lambda point, save: points.append(point)
        )
        assert points == history and [point["step"] for point in points] == [30, 60]
        assert np.isfinite([detector.thresholds.image, detector.thresholds.pixel]).all()


def test_unknown_method_is_refused():
    with pytest.raises(ParameterError, match=r"patchcor.*clflow"):
        find_method("patchcor")
