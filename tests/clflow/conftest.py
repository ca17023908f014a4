"""A real, small feature grid, shared by the tests of the method."""

from __future__ import annotations

import pytest

from clflow.model.backbone import Backbone, find_weights
from clflow.model.features import FeatureGrid


@pytest.fixture(scope="session")
def grid() -> FeatureGrid:
    """EfficientNet-Lite0's strides 4, 8 and 16 on the grid of 8; not to be changed."""
    return FeatureGrid(Backbone(find_weights("tf_efficientnet_lite0", "offline"), (4, 8, 16)), grid=8, pool=1)
