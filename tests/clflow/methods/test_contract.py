"""The contract that every method fulfils, on real features of the tiny dataset."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clflow.calibration import Rank
from clflow.config.params import Override, Params, load
from clflow.data.images import read_image
from clflow.data.layout import scan
from clflow.data.manifest import category_rows
from clflow.errors import ParameterError
from clflow.features.backbone import weights_identity
from clflow.features.cache import FeatureCache
from clflow.features.extraction import Features
from clflow.features.weights import find_weights
from clflow.methods.loading import load_detector
from clflow.methods.patchcore import farthest_points
from clflow.methods.protocol import Method
from clflow.methods.registry import METHODS, find_method
from clflow.model.detector import Detector
from clflow.synthesis.category import synthesize_category
from clflow.training.data import CategoryFiles, FitData, load_fit_data
from clflow.training.validation import score_features
from clflow.training.worker import Worker, run
from tests import tiny
from tests.clflow.methods.recording import recording

ALONE = Worker.single(torch.device("cpu"))


@pytest.fixture(scope="module")
def params(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Params:
    """All losses are on, so that a method that has them reads the parameters of each."""
    tree = tiny.params_tree(tiny_source, train__steps=60, train__eval_points=2, loss__proxy=0.1)
    weights = ("hardest", "contrast", "likelihood_margin", "proxy", "near_anomaly_normals")
    assert all(tree["loss"][name] > 0 for name in weights)
    return load(tiny.write_params(tmp_path_factory.mktemp("params") / "params.yaml", tree))


@pytest.fixture(scope="module")
def synthetic(tiny_source: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize_category(tiny_source, rows(tiny_source), params, folder / "disc")
    return folder / "disc"


def rows(source: Path) -> pd.DataFrame:
    return category_rows(scan(source, "disc", "good", True), "disc", "train")


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


@dataclass(frozen=True)
class Prepared:
    """A method with all that it needs to train on the tiny dataset.

    Attributes:
        read: the parameters that features, data and trainings of these ``params`` have read so far.
    """

    method: Method
    features: Features
    data: FitData
    params: Params
    read: set[str]

    def fit(self, seed: int = 0) -> tuple[Detector, list[dict[str, float]], list[dict[str, float]]]:
        """The detector, its learning curves, and what was reported."""
        points: list[dict[str, float]] = []
        training = self.method.fit(self.features, self.data, self.params, seed, ALONE)
        return *run(training, lambda point, save: points.append(point)), points

    def elsewhere(self) -> Prepared:
        """The same with other values of some parameters that the method does not name."""
        others = {"loss.contrast": 0.7, "loss.start": 0.1, "train.steps": 3, "train.learning_rate": 0.5}
        unnamed = {name: value for name, value in others.items() if name not in self.method.parameters}
        return replace(self, params=self.params.merged(Override.of(unnamed), where="elsewhere"))


@pytest.fixture(scope="module", params=METHODS)
def prepared(
    request: pytest.FixtureRequest,
    tiny_source: Path,
    params: Params,
    synthetic: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Prepared:
    method = find_method(request.param)
    weights = find_weights(params.model.backbone, params.model.weights)
    read: set[str] = set()
    params = recording(params, read)
    features = method.features(weights, params.model)
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), 1, features, weights_identity(weights), ALONE.device)
    data = load_fit_data(CategoryFiles(rows(tiny_source), tiny_source, synthetic), params, cache)
    return Prepared(method, features, data, params, read)


@pytest.fixture(scope="module")
def fitted(prepared: Prepared) -> tuple[Detector, list[dict[str, float]], list[dict[str, float]]]:
    return prepared.fit()


@pytest.fixture(scope="module")
def detector(fitted) -> Detector:
    return fitted[0]


class TestMethod:
    def test_scores_defects_higher(self, detector, scenes):
        (_, good), (maps, bad) = (detector(images) for images in scenes)
        assert bad.min() > good.max()
        assert maps.isfinite().all() and maps.ndim == 3

    def test_its_parameters_are_exactly_those_that_are_read(self, prepared, fitted):
        # The worker of a cell reads these: into how many processes it is split, and what it keeps of their training.
        of_the_worker = {"resources.workers_per_cell", "train.keep_eval_weights"}
        assert len(set(prepared.method.parameters)) == len(prepared.method.parameters)
        assert prepared.read == set(prepared.method.parameters) - of_the_worker

    def test_seed_and_named_parameters_determine_scores(self, prepared, detector, scenes):
        again, other = (prepared.elsewhere().fit(seed)[0](scenes[0])[0] for seed in (0, 1))
        assert torch.equal(detector(scenes[0])[0], again)
        assert not torch.equal(again, other)

    def test_survives_a_round_trip(self, detector, scenes, tmp_path):
        detector.save(tmp_path)
        loaded = load_detector(tmp_path)
        torch.testing.assert_close(loaded.scorer.state_dict(), detector.scorer.state_dict(), rtol=0, atol=0)
        # To rounding: what is read from a file lies elsewhere in memory, and some processors then sum in another order.
        torch.testing.assert_close(loaded(scenes[1]), detector(scenes[1]), rtol=1e-5, atol=1e-5)

    def test_reports_curves_and_calibrates_without_scenes(self, prepared, fitted):
        detector, history, points = fitted
        steps = [point["step"] for point in points]
        assert points == history and steps == sorted(set(steps)) and steps[0] > 0
        assert {"step", "loss", "validation", "seconds"} <= history[-1].keys()
        limits = detector.thresholds
        normal = score_features(detector.scorer, prepared.data.held_out_normal, ALONE.device)[1]
        assert {*normal.tolist()} <= {*limits.calibration_scores}
        rank = Rank.keeping(prepared.params.protocol.false_alarm_rate, len(limits.calibration_scores))
        assert limits.image == rank.of(np.array(limits.calibration_scores))
        assert np.isfinite([limits.pixel, limits.median_pixel_score]).all()


def test_peers_are_told_to_be_installed(monkeypatch: pytest.MonkeyPatch, params: Params):
    monkeypatch.setitem(sys.modules, "anomalib.models.image.patchcore.torch_model", None)
    method = find_method("anomalib-patchcore")
    features = method.features(find_weights(params.model.backbone, params.model.weights), params.model)
    with pytest.raises(ParameterError, match=r"anomalib.*pip install 'clflow\[peers\]'"):
        method.scorer(features, params.model, tiny.SIZE, 0)


def test_coreset_is_that_of_the_plain_greedy_rule():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 5)))
    chosen, radius = farthest_points(rows, 8, first=3)
    expected = [3]
    for _ in range(7):
        nearest = torch.cdist(rows, rows[expected]).min(dim=1).values
        expected.append(int(nearest.argmax()))
    assert chosen.tolist() == expected
    assert radius == pytest.approx(float(torch.cdist(rows, rows[expected]).min(dim=1).values.max()))


def test_unknown_method_is_refused():
    with pytest.raises(ParameterError, match=r"patchcor.*clflow"):
        find_method("patchcor")
