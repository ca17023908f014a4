"""A real, small feature grid, shared by the tests of the method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clflow.config.params import load
from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid
from clflow.features.weights import find_weights
from clflow.model.detector import Detector, Thresholds
from clflow.model.scorer import FlowScorer, build_flows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def grid() -> FeatureGrid:
    """EfficientNet-Lite0's strides 4, 8 and 16 on the grid of 8; not to be changed."""
    return FeatureGrid(Backbone(find_weights("tf_efficientnet_lite0", "offline"), (4, 8, 16)), grid=8, pool=1)


@pytest.fixture
def detector(grid: FeatureGrid) -> Detector:
    """A detector for 64 pixels whose two flows are no longer the identity."""
    model = load(ROOT / "pipelines" / "demo.yaml").model.model_copy(update={"coupling_steps": 2, "flows": 2})
    flows = build_flows(model, grid.channels, seed=3)
    with torch.no_grad():
        for parameter in flows.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    scorer = FlowScorer(flows, model.top_fraction)
    return Detector("clflow", grid, scorer, model, 3, 64, Thresholds(1.5, 2.5, 0.5))
