"""The contract that every backbone with packaged weights fulfils."""

from __future__ import annotations

import pytest

from clflow.features.weights import BACKBONES, Weights, find_weights
from clflow.testing import BackboneContract


class TestBackbones(BackboneContract):
    @pytest.fixture(scope="class", params=BACKBONES.own)
    @classmethod
    def weights(cls, request: pytest.FixtureRequest) -> Weights:
        return find_weights(request.param, "offline")
