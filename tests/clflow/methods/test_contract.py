"""The contract that every method fulfils, and what only some of them promise."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from clflow.config.schema import Model
from clflow.errors import ParameterError
from clflow.features.weights import find_weights
from clflow.methods.patchcore import farthest_points
from clflow.methods.protocol import Method
from clflow.methods.registry import METHODS, find_method
from clflow.testing import MethodContract
from tests import tiny


class TestMethods(MethodContract):
    @pytest.fixture(scope="class", params=METHODS.own)
    @classmethod
    def method(cls, request: pytest.FixtureRequest) -> Method:
        return find_method(request.param)


def test_peers_are_told_to_be_installed(monkeypatch: pytest.MonkeyPatch, model: Model):
    monkeypatch.setitem(sys.modules, "anomalib.models.image.patchcore.torch_model", None)
    method = find_method("anomalib-patchcore")
    features = method.features(find_weights(model.backbone, model.weights), model)
    with pytest.raises(ParameterError, match=r"anomalib.*pip install 'clflow\[peers\]'"):
        method.scorer(features, model, tiny.SIZE, 0)


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
    with pytest.raises(ParameterError, match=r"no method 'nearest'; known are clflow, .*anomalib-padim"):
        find_method("nearest")
