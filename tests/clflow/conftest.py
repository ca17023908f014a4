"""A real, small feature grid, shared by the tests of the method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clflow.calibration import Thresholds
from clflow.config.params import load
from clflow.config.schema import Model
from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid
from clflow.features.weights import find_weights
from clflow.model.detector import Detector
from clflow.model.scorer import build_scorer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def grid() -> FeatureGrid:
    """EfficientNet-Lite0's strides 4, 8 and 16 on the grid of 8; not to be changed."""
    return FeatureGrid(Backbone(find_weights("tf_efficientnet_lite0", "offline"), (4, 8, 16)), grid=8, pool=1)


@pytest.fixture(scope="session")
def model() -> Model:
    """The demo's."""
    return load(ROOT / "pipelines" / "demo.yaml").model


@pytest.fixture
def detector(grid: FeatureGrid, model: Model) -> Detector:
    """A detector for 64 pixels whose two flows are no longer the identity, and whose layout has been fitted."""
    model = model.model_copy(update={"coupling_steps": 2, "flows": 2})
    generator = torch.Generator().manual_seed(0)
    scorer = build_scorer(model, grid.channels, (8, 8), layout=True, seed=3)
    assert scorer.layout is not None
    features = torch.randn(20, 8, 8, grid.channels, generator=torch.Generator().manual_seed(1))
    scorer.layout.fit(lambda: iter([features]), len(features))
    scorer.subtract_normal_level(torch.randn(5, 8, 8, generator=generator))
    with torch.no_grad():
        for parameter in scorer.flows.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return Detector("clflow", grid, scorer, model, 3, 64, Thresholds(1.5, 2.5, 0.5, (0.5, 1.5)))
