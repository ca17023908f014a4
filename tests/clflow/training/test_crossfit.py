"""Cross-fitting: no training image is whitened by statistics that it is part of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clflow.config.schema import Model
from clflow.model.scorer import FlowScorer, build_scorer
from clflow.training.crossfit import whiten
from clflow.training.data import FitData

CPU = torch.device("cpu")
GRID = (4, 4)


def make(count: int) -> FitData:
    rng = np.random.default_rng(0)
    normal, synthetic, held_out = (
        rng.normal(size=(images, *GRID, 6)).astype(np.float16) for images in (count, 2 * count, 5)
    )
    coverage = np.ones((2 * count, *GRID), np.float32)
    return FitData(
        normal=normal,
        synthetic=synthetic,
        original=np.arange(2 * count) // 2,
        coverage=coverage,
        boxes=np.tile([1, 1, 3, 3], (2 * count, 1)),
        held_out_normal=held_out,
        held_out_synthetic=held_out,
        held_out_coverage=coverage[:5],
    )


@pytest.fixture
def scorer(model: Model) -> FlowScorer:
    return build_scorer(model, 6, GRID, layout=True, seed=0)


def test_an_image_is_whitened_by_the_others(scorer: FlowScorer, model: Model):
    data = make(11)
    normal, synthetic = whiten(scorer, data, CPU)
    assert scorer.layout is not None
    globally = scorer.whitening(torch.from_numpy(data.normal).float())
    for place in (0, 6):
        others = build_scorer(model, 6, GRID, layout=True, seed=0).layout
        assert others is not None
        rest = globally[np.arange(11) % 4 != place % 4]
        others.fit(lambda rest=rest: iter([rest]), 11)
        torch.testing.assert_close(normal.features[place], others(globally[place : place + 1])[0].half())
        torch.testing.assert_close(normal.logdet[place], others.logdet)
        made = torch.from_numpy(data.synthetic[2 * place + 1 :][:1]).float()
        torch.testing.assert_close(synthetic.features[2 * place + 1], others(scorer.whitening(made))[0].half())
    of_all = scorer.layout(globally)
    assert of_all.square().mean() < 0.9 * normal.features.float().square().mean()  # what cross-fitting is for


def test_without_layout_nothing_depends_on_the_position(model: Model):
    scorer, data = build_scorer(model, 6, GRID, layout=False, seed=0), make(5)
    normal, _ = whiten(scorer, data, CPU)
    torch.testing.assert_close(normal.features, scorer.whitening(torch.from_numpy(data.normal).float()).half())
    assert (normal.logdet == 0).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_images_than_folds_are_enough(scorer: FlowScorer, count: int):
    normal, synthetic = whiten(scorer, make(count), CPU)
    assert normal.features.isfinite().all() and synthetic.features.isfinite().all()
