"""The detector: maps, pooled scores, and a round trip through files that holds no pickle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter

from clflow.errors import DataError, WeightsError
from clflow.features.extraction import FeatureGrid
from clflow.methods.loading import load_detector
from clflow.model import scorer as scoring
from clflow.model.detector import Detector
from clflow.model.flow import Flow, Flows
from clflow.model.scorer import anomaly_score, pool_scores, score_maps


def images(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def two_flows() -> Flows:
    """No longer the identity, either of them."""
    flows = Flows([Flow(6, coupling_steps=2, hidden_ratio=1.0, coupling="additive", seed=i) for i in range(2)])
    with torch.no_grad():
        for flow in flows.members:
            flow.log_scale.add_(torch.randn(6, generator=torch.Generator().manual_seed(0)))
    return flows.double()


def test_maps_and_scores_have_their_shapes_and_images_do_not_mix(detector: Detector):
    maps, scores = detector(images())
    assert maps.shape == (2, 8, 8) and scores.shape == (2,)
    alone = detector(images()[1:])
    torch.testing.assert_close(alone, (maps[1:], scores[1:]), rtol=1e-4, atol=1e-4)


def test_a_few_positions_at_a_time_give_the_scores_of_all(monkeypatch: pytest.MonkeyPatch):
    flows, calls = two_flows(), []
    features = torch.randn(5, 4, 8, 6, dtype=torch.float64)
    whole = score_maps(flows, features)
    flows.register_forward_hook(lambda module, arguments, output: calls.append(len(arguments[0])))
    monkeypatch.setattr(scoring, "POSITIONS_AT_ONCE", 60)
    torch.testing.assert_close(score_maps(flows, features), whole)
    assert calls == [60, 60, 40]


def test_a_score_is_the_mean_over_flows():
    flows, features = two_flows(), torch.randn(3, 4, 8, 6, dtype=torch.float64)
    first, second = (score_maps(Flows([flow]), features) for flow in flows.members)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(score_maps(flows, features), (first + second) / 2)


def test_anomaly_score_is_students_likelihood_per_dimension():
    z, logdet = 10 * torch.randn(7, 5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    student = torch.distributions.StudentT(torch.tensor(8.0, dtype=torch.float64))
    constant = student.log_prob(torch.zeros(())).item()
    torch.testing.assert_close(anomaly_score(z, logdet), constant - (student.log_prob(z).sum(dim=1) + logdet) / 5)


def test_many_unusual_dimensions_outweigh_a_few_extreme_ones():
    extreme, unusual = torch.zeros(100), torch.full((100,), 2.0)
    extreme[:5] = 100.0
    score_extreme, score_unusual = anomaly_score(torch.stack([extreme, unusual]), torch.zeros(2))
    assert score_extreme < score_unusual


def test_image_score_is_the_mean_of_the_positions_that_stand_out_most():
    maps = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0))
    window = {"sigma": (0, 2, 4), "mode": "constant", "truncate": 20}
    surroundings = gaussian_filter(maps.numpy(), **window) / gaussian_filter(np.ones(maps.shape, np.float32), **window)
    highest = np.sort((maps.numpy() - 0.75 * surroundings).reshape(3, -1), axis=1)[:, ::-1]
    np.testing.assert_allclose(pool_scores(maps, 0.03), highest[:, :15].mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(pool_scores(maps, 0.0001), highest[:, 0], rtol=1e-4)


def test_a_level_that_a_whole_image_has_counts_by_a_quarter():
    maps = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_scores(maps + 4.0, 0.1), pool_scores(maps, 0.1) + 1.0)


def test_round_trip_gives_the_same_scores(detector: Detector, tmp_path: Path):
    detector.save(tmp_path)
    loaded = load_detector(tmp_path)
    torch.testing.assert_close(loaded(images()), detector(images()), rtol=0, atol=0)
    assert loaded.features is not detector.features
    assert loaded.thresholds == detector.thresholds
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}


def test_features_are_shared_with_detectors_that_see_the_same(detector: Detector, tmp_path: Path):
    detector.save(tmp_path)
    other = FeatureGrid(detector.features.backbone, grid=8, pool=3)
    assert load_detector(tmp_path, [other, detector.features]).features is detector.features
    assert load_detector(tmp_path, [other]).features is not other


def test_other_backbone_weights_than_those_of_the_training_are_refused(detector: Detector, tmp_path: Path):
    detector.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone_digest"] = "0" * 64
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="not those"):
        load_detector(tmp_path)


def test_detector_that_saw_other_features_is_refused(detector: Detector, tmp_path: Path):
    detector.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["features"] = config["features"][:-1]  # before levels were registered
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="other features than this version"):
        load_detector(tmp_path)


@pytest.mark.parametrize(
    ("name", "before"),
    [("flows.members.1.log_scale", None), ("normal_level", "normal_map")],
    ids=["no scale", "maps less their local mean"],
)
def test_detector_of_another_form_is_refused(detector: Detector, tmp_path: Path, name: str, before: str | None):
    detector.save(tmp_path)
    weights = load_file(tmp_path / "scorer.safetensors")
    tensor = weights.pop(name)
    if before:
        weights[before] = tensor
    save_file(weights, tmp_path / "scorer.safetensors")
    with pytest.raises(DataError, match="of another form than this version"):
        load_detector(tmp_path)


@pytest.mark.parametrize("lost", ["config.json", "scorer.safetensors"])
def test_folder_without_a_whole_detector_is_one_sentence(detector: Detector, tmp_path: Path, lost: str):
    detector.save(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(DataError, match=rf"holds no whole trained detector.*{lost}"):
        load_detector(tmp_path)


@pytest.mark.parametrize("damaged", ["config.json", "scorer.safetensors"])
@pytest.mark.parametrize("kept", [5, -1], ids=["head", "all but the end"])
def test_damaged_detector_is_one_sentence(detector: Detector, tmp_path: Path, damaged: str, kept: int):
    detector.save(tmp_path)
    path = tmp_path / damaged
    path.write_bytes(path.read_bytes().rstrip()[:kept])
    with pytest.raises(DataError, match="holds no whole trained detector"):
        load_detector(tmp_path)
