"""The contract of a method, on real features of tiny images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clflow.calibration import Rank
from clflow.config.layers import BASE, Layer, lay, packaged
from clflow.config.params import Override, Params, check, part_layer
from clflow.data.images import read_image
from clflow.data.layout import scan
from clflow.data.manifest import category_rows
from clflow.features.cache import FeatureCache
from clflow.features.extraction import Features
from clflow.features.weights import find_weights
from clflow.methods.loading import load_detector, open_features
from clflow.methods.protocol import Method
from clflow.methods.registry import find_method
from clflow.model.detector import Detector
from clflow.synthesis.category import synthesize_category
from clflow.testing.images import PARAMETERS, write_dataset
from clflow.testing.recording import recording
from clflow.training.data import CategoryFiles, FitData, load_fit_data
from clflow.training.validation import score_features
from clflow.training.worker import Worker, run

_CATEGORY = "disc"
_SINGLE = Worker.single(torch.device("cpu"))
# All losses are on, so that a method that has them reads the parameters of each.
_STEPS = {"train": {"steps": 60}, "loss": {"proxy": 0.1}}
_WEIGHTS = ("hardest", "contrast", "likelihood_margin", "proxy", "near_anomaly_normals")

Fitted = tuple[Detector, list[dict[str, float]], list[dict[str, float]]]
"""A detector, its learning curves, and what was reported."""


@dataclass(frozen=True)
class Prepared:
    """A method with all that it needs to train.

    Attributes:
        read: the parameters that features, data and trainings of these ``params`` have read so far.
    """

    method: Method
    features: Features
    data: FitData
    params: Params
    read: set[str]

    def fit(self, seed: int = 0) -> Fitted:
        """Train."""
        points: list[dict[str, float]] = []
        training = self.method.fit(self.features, self.data, self.params, seed, _SINGLE)
        return *run(training, lambda point, save: points.append(point)), points

    def elsewhere(self) -> Prepared:
        """The same with other values of some parameters that the method does not name."""
        others = {"loss.contrast": 0.7, "loss.start": 0.1, "train.steps": 3, "train.learning_rate": 0.5}
        unnamed = {name: value for name, value in others.items() if name not in self.method.parameters}
        return replace(self, params=self.params.merged(Override.of(unnamed), where="elsewhere"))


class MethodContract:
    """What every method does; see `clflow.methods.protocol.Method`.

    Attributes:
        name: of the method.
    """

    name: str

    @pytest.fixture(scope="class")
    @classmethod
    def method(cls) -> Method:
        return find_method(cls.name)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_dataset(tmp_path_factory.mktemp("source"))

    @pytest.fixture(scope="class")
    @classmethod
    def params(cls, source: Path) -> Params:
        layers = [packaged(BASE), Layer("tiny", PARAMETERS), Layer("contract", _STEPS), part_layer(source, "clflow")]
        params = check(lay(layers, Params))
        assert all(getattr(params.loss, name) > 0 for name in _WEIGHTS)
        return params

    @pytest.fixture(scope="class")
    @classmethod
    def rows(cls, source: Path) -> pd.DataFrame:
        return category_rows(scan(source, _CATEGORY, "good", True), _CATEGORY, "train")

    @pytest.fixture(scope="class")
    @classmethod
    def synthetic(
        cls, source: Path, rows: pd.DataFrame, params: Params, tmp_path_factory: pytest.TempPathFactory
    ) -> Path:
        folder = tmp_path_factory.mktemp("synthetic") / _CATEGORY
        synthesize_category(source, rows, params, folder)
        return folder

    @pytest.fixture(scope="class")
    @classmethod
    def scenes(cls, source: Path) -> tuple[torch.Tensor, torch.Tensor]:
        """Normal and defective test images; nothing but the assertions sees them."""
        good, bad = (
            torch.from_numpy(
                np.stack([read_image(path) for path in sorted((source / _CATEGORY / "test" / kind).iterdir())])
            )
            for kind in ("good", "hole")
        )
        return good, bad

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(
        cls,
        method: Method,
        source: Path,
        rows: pd.DataFrame,
        params: Params,
        synthetic: Path,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Prepared:
        weights = find_weights(params.model.backbone, params.model.weights)
        read: set[str] = set()
        params = recording(params, read)
        features, identity = open_features(method, params.model, weights, _SINGLE.device)
        cache = FeatureCache(tmp_path_factory.mktemp("cache"), 1, features, identity, _SINGLE.device)
        data = load_fit_data(CategoryFiles(rows, source, synthetic), params, cache)
        return Prepared(method, features, data, params, read)

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, prepared: Prepared) -> Fitted:
        return prepared.fit()

    @pytest.fixture(scope="class")
    @classmethod
    def detector(cls, fitted: Fitted) -> Detector:
        return fitted[0]

    def test_is_found_by_its_name_as_a_variant_and_tuned(self, method: Method):
        """Its name has no dot, which variants have, and not the end of tuned methods."""
        assert all(find_method(f"{method.name}{end}") is method for end in ("", "-tuned", ".variant"))

    def test_scores_defects_higher(self, detector: Detector, scenes: tuple[torch.Tensor, torch.Tensor]):
        """Every image with a bright square scores higher than every normal one; maps are finite."""
        (_, good), (maps, bad) = (detector(images) for images in scenes)
        assert bad.min() > good.max()
        assert maps.isfinite().all() and maps.ndim == 3

    def test_its_parameters_are_exactly_those_that_are_read(self, prepared: Prepared, fitted: Fitted):
        """`Method.parameters` names what features, data and training read, and nothing else."""
        # The worker of a cell reads these: into how many processes it is split, and what it keeps of their training.
        of_the_worker = {"resources.workers_per_cell", "train.keep_eval_weights"}
        assert len(set(prepared.method.parameters)) == len(prepared.method.parameters)
        assert prepared.read == set(prepared.method.parameters) - of_the_worker

    def test_seed_and_named_parameters_determine_scores(
        self, prepared: Prepared, detector: Detector, scenes: tuple[torch.Tensor, torch.Tensor]
    ):
        """Another training with the same seed scores alike, to the bit; one with another seed does not."""
        again, other = (prepared.elsewhere().fit(seed)[0](scenes[0])[0] for seed in (0, 1))
        assert torch.equal(detector(scenes[0])[0], again)
        assert not torch.equal(again, other)

    def test_survives_a_round_trip(self, detector: Detector, scenes: tuple[torch.Tensor, torch.Tensor], tmp_path: Path):
        """A detector that is saved and loaded has the same tensors and scores."""
        detector.save(tmp_path)
        loaded = load_detector(tmp_path)
        torch.testing.assert_close(loaded.scorer.state_dict(), detector.scorer.state_dict(), rtol=0, atol=0)
        # To rounding: what is read from a file lies elsewhere in memory, and some processors then sum in another order.
        torch.testing.assert_close(loaded(scenes[1]), detector(scenes[1]), rtol=1e-5, atol=1e-5)

    def test_reports_curves_and_calibrates_without_scenes(self, prepared: Prepared, fitted: Fitted):
        """Each point of the curves is reported once, and thresholds come from held-out normal images."""
        detector, history, points = fitted
        steps = [point["step"] for point in points]
        assert points == history and steps == sorted(set(steps)) and steps[0] > 0
        assert {"step", "loss", "validation", "seconds"} <= history[-1].keys()
        limits = detector.thresholds
        normal = score_features(detector.scorer, prepared.data.held_out_normal, _SINGLE.device)[1]
        assert {*normal.tolist()} <= {*limits.calibration_scores}
        rank = Rank.keeping(prepared.params.protocol.false_alarm_rate, len(limits.calibration_scores))
        assert limits.image == rank.of(np.array(limits.calibration_scores))
        assert np.isfinite([limits.pixel, limits.median_pixel_score]).all()
