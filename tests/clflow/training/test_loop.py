"""Training: deterministic by seed, resumable bit for bit, blind to test data, honest when it diverges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clflow.config.params import Params, load
from clflow.config.schema import Loss, Model, Train
from clflow.errors import DataError, DivergenceError
from clflow.features.cache import FeatureCache
from clflow.features.extraction import FeatureGrid
from clflow.training.crossfit import White
from clflow.training.data import CategoryFiles, FitData, load_fit_data
from clflow.training.loop import TrainedFlows, fit, likelihood_alone
from clflow.training.sampler import Sampler
from clflow.training.validation import score_features
from clflow.training.worker import Save, Worker, run

ROOT = Path(__file__).parents[3]
ALONE = Worker.single(torch.device("cpu"))


def ignore(point: dict[str, float], save: Save) -> None:
    """A report that nobody reads."""


def features(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    grid = np.random.default_rng(seed).normal(size=(count, 4, 4, 6))
    grid[:, 1:3, 1:3] += shift
    return grid.astype(np.float16)


@pytest.fixture(scope="module")
def data() -> FitData:
    coverage = np.zeros((8, 4, 4), np.float32)
    coverage[:, 1:3, 1:3] = 1
    return FitData(
        normal=features(10, 0),
        synthetic=features(8, 1, shift=3.0),
        original=np.arange(8),
        coverage=coverage,
        boxes=np.tile([1, 1, 3, 3], (8, 1)),
        held_out_normal=features(20, 2),
        held_out_synthetic=features(20, 3, shift=3.0),
        held_out_coverage=np.repeat(coverage[:1], 20, axis=0),
    )


@pytest.fixture(scope="module")
def params() -> Params:
    return load(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def model(params: Params) -> Model:
    return params.model.model_copy(update={"coupling_steps": 2, "hidden_ratio": 1.0, "flows": 2, "top_fraction": 0.1})


@pytest.fixture(scope="module")
def loss(params: Params) -> Loss:
    return params.loss.model_copy(update={"contrast": 0.1, "likelihood_margin": 0.1, "proxy": 0.3, "start": 0.5})


@pytest.fixture(scope="module")
def train(params: Params) -> Train:
    small = {"steps": 12, "warmup": 2, "positions": 64, "pairs": 4, "box_positions": 4, "eval_points": 3}
    return params.train.model_copy(update=small)


def trained(data: FitData, model: Model, loss: Loss, train: Train, layout: bool = True, seed: int = 0) -> TrainedFlows:
    return run(fit(data, model, loss, train, layout, seed, ALONE), ignore)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_seed_determines_the_weights(data: FitData, model: Model, loss: Loss, train: Train):
    first, second, other = (trained(data, model, loss, train, seed=seed).scorer for seed in (5, 5, 6))
    assert same(first, second)
    assert not same(first, other)


def test_each_of_several_flows_is_trained_as_if_alone(data: FitData, model: Model, loss: Loss, train: Train):
    counts = (model.model_copy(update={"flows": count}) for count in (2, 1))
    two, alone = (trained(data, several, loss, train).scorer for several in counts)
    assert same(two.flows.members[0], alone.flows.members[0])
    assert not same(two.flows.members[0], two.flows.members[1])


def test_resumed_run_equals_an_uninterrupted_one(data: FitData, model: Model, loss: Loss, train: Train, tmp_path: Path):
    class KilledError(Exception):
        pass

    def die_after_second(point: dict[str, float], save: Save) -> None:
        if point["step"] == 8:
            save(tmp_path)
            raise KilledError

    whole = trained(data, model, loss, train)
    with pytest.raises(KilledError):
        run(fit(data, model, loss, train, True, 0, ALONE), die_after_second)
    seen: list[float] = []
    resumed = run(
        fit(data, model, loss, train, True, 0, ALONE, resume=tmp_path), lambda point, save: seen.append(point["step"])
    )
    assert same(whole.scorer, resumed.scorer)
    assert seen == [12]
    times = ("seconds",)
    assert [{k: v for k, v in p.items() if k not in times} for p in resumed.history] == [
        {k: v for k, v in p.items() if k not in times} for p in whole.history
    ]


def test_synthetic_anomalies_are_learned_only_where_their_losses_are_on(
    data: FitData, model: Model, loss: Loss, train: Train
):
    plain = likelihood_alone(loss)
    poisoned = FitData(**{**vars(data), "synthetic": np.full_like(data.synthetic, np.nan)})
    flows = trained(poisoned, model, plain, train, layout=False)
    assert same(flows.scorer, trained(data, model, plain, train, layout=False).scorer)
    assert not {"hardest", "contrast", "likelihood_margin", "proxy", "near_anomaly_normals"} & flows.history[-1].keys()
    with_both = trained(data, model, loss, train).history
    terms = {"likelihood", "hardest", "contrast", "likelihood_margin", "proxy", "near_anomaly_normals", "validation"}
    assert terms <= with_both[-1].keys()


def test_positions_near_an_anomaly_are_learned_as_normal(data: FitData, model: Model, loss: Loss, train: Train):
    """What is beside an anomaly has other features because they see it, and should not be taken for anomalous."""
    touched = data.coverage > 0
    synthetic = data.synthetic.copy()
    synthetic[~touched, :3] += 2
    beside = FitData(**{**vars(data), "synthetic": synthetic})
    longer = train.model_copy(update={"steps": 60})

    def outlined(weight: float) -> float:
        """How far what is beside an anomaly stands out from normal images, of how far the anomaly does."""
        weighed = loss.model_copy(update={"near_anomaly_normals": weight})
        scorer = trained(beside, model, weighed, longer).scorer
        normal, found = (score_features(scorer, x, ALONE.device)[0] for x in (data.held_out_normal, synthetic))
        anomaly, around = (found[torch.from_numpy(where)].mean() for where in (touched, ~touched))
        return ((around - normal.mean()) / (anomaly - normal.mean())).item()

    assert outlined(weight=1.0) < 0.7 * outlined(weight=0.0)


@pytest.mark.parametrize(
    ("touched", "beside"),
    [
        (lambda row, column: row + column == 0, lambda row, column: (row + column > 0) & (np.hypot(row, column) <= 8)),
        (lambda row, column: column >= 4, lambda row, column: column < 4),
    ],
)
def test_near_anomaly_positions_are_untouched(data: FitData, touched: Callable, beside: Callable):
    coverage = np.fromfunction(touched, (20, 20)).astype(np.float32) * 0.01
    covered = FitData(**{**vars(data), "coverage": coverage[None]})
    (places,) = covered.near_anomaly_positions()
    np.testing.assert_array_equal(places, np.flatnonzero(np.fromfunction(beside, (20, 20))))


def test_an_anomaly_that_reaches_every_position_has_near_positions(data: FitData):
    coverage = np.stack([np.full((3, 3), 0.5), np.linspace(0.1, 1, 9).reshape(3, 3)]).astype(np.float32)
    everywhere, least = FitData(**{**vars(data), "coverage": coverage}).near_anomaly_positions()
    assert len(everywhere) > 0
    np.testing.assert_array_equal(least, [0])


def test_training_lowers_the_loss_and_separates(data: FitData, model: Model, loss: Loss, train: Train):
    longer = train.model_copy(update={"steps": 60})
    flows = trained(data, model, loss, longer)
    assert flows.history[-1]["likelihood"] < flows.history[0]["likelihood"]
    (normal, _), (synthetic, _) = (
        score_features(flows.scorer, features, ALONE.device)
        for features in (data.held_out_normal, data.held_out_synthetic)
    )
    assert synthetic[:, 1:3, 1:3].mean() > normal.mean() + 1


def test_training_images_score_as_if_they_had_not_been_trained_on(
    data: FitData, model: Model, loss: Loss, train: Train
):
    """Whitened by statistics that they are part of, they would score lower than new images do."""
    flows = trained(data, model, loss, train)
    new, own = (score_features(flows.scorer, x, ALONE.device)[1] for x in (data.held_out_normal, data.normal))
    maps, cross_fitted = flows.cross_fitted
    assert abs(cross_fitted.mean() - new.mean()) < 0.5 * abs(own.mean() - new.mean())
    assert maps.shape == data.normal.shape[:3]


def test_divergence_says_so(data: FitData, model: Model, loss: Loss, train: Train):
    with pytest.raises(DataError, match=r"not finite.*model\.backbone"):
        run(
            fit(
                FitData(**{**vars(data), "normal": data.normal * np.float16(np.nan)}),
                model,
                loss,
                train,
                True,
                0,
                ALONE,
            ),
            ignore,
        )
    wild = train.model_copy(update={"learning_rate": 1e6, "warmup": 0})
    with pytest.raises(DivergenceError, match="diverged"):
        run(fit(data, model, loss, wild, True, 0, ALONE), ignore)


def test_two_workers_share_the_batch_of_one(data: FitData, train: Train):
    normal, synthetic = (
        White(torch.from_numpy(rows), torch.from_numpy(rows[..., 0].astype(np.float32)))
        for rows in (data.normal, data.synthetic)
    )
    alone = Sampler(data, normal, synthetic, train, 0, ALONE).draw(3, pairs=True)
    assert torch.equal(alone.logdet, alone.features[:, 0])
    shares = [
        Sampler(data, normal, synthetic, train, 0, Worker(rank, 2, ALONE.device, ALONE.parallel)).draw(3, pairs=True)
        for rank in (0, 1)
    ]
    assert sum(share.normals for share in shares) == alone.normals
    assert sum(share.pairs for share in shares) == alone.pairs
    rows = torch.cat([share.features for share in shares])
    assert torch.equal(rows.sum(1).sort().values, alone.features.sum(1).sort().values)


def test_test_rows_never_reach_training(params: Params, grid: FeatureGrid, tmp_path: Path):
    rows = pd.DataFrame({"split": ["train", "test"], "label": [0, 0], "path": ["a", "b"]})
    cache = FeatureCache(tmp_path / "cache", 1, grid, "weights", ALONE.device)
    for wrong in (rows, rows.assign(split="train", label=[0, 1])):
        with pytest.raises(DataError, match="only normal training images"):
            load_fit_data(CategoryFiles(wrong, tmp_path, tmp_path), params, cache)


def test_bfloat16_is_left_alone_where_the_processor_would_emulate_it(
    data: FitData, model: Model, loss: Loss, train: Train, monkeypatch: pytest.MonkeyPatch
):
    def last_loss(bfloat16: bool, capabilities: dict[str, bool]) -> float:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        asked = train.model_copy(update={"bfloat16": bfloat16})
        return trained(data, model, loss, asked).history[-1]["loss"]

    single = last_loss(False, {"avx512_bf16": True})
    assert last_loss(True, {"avx2": True, "avx512_bf16": False}) == single
    assert last_loss(True, {"avx2": True, "avx512_bf16": True}) != single
