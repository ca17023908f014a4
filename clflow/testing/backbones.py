"""The contract of a backbone whose weights come with a package."""

from __future__ import annotations

import pytest
import torch

from clflow.features.backbone import Backbone, pretrained_model, weights_identity
from clflow.features.extraction import FeatureGrid
from clflow.features.weights import Weights, find_weights
from clflow.files import file_sha256

_SHAPE = (64, 96)  # pixels


class BackboneContract:
    """What a `PackagedBackbone` does.

    Attributes:
        name: of the backbone.
        strides: that it is to be used with.
    """

    name: str
    strides: tuple[int, ...] = (4, 8, 16)

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls) -> Weights:
        return find_weights(cls.name, "offline")

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls, weights: Weights) -> Backbone:
        return Backbone(weights, cls.strides)

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls) -> torch.Tensor:
        return torch.rand(2, 3, *_SHAPE, generator=torch.Generator().manual_seed(0))

    def test_features_have_the_asked_strides(self, backbone: Backbone, images: torch.Tensor):
        """Levels have the shapes that strides and channels say; they are finite and not constant."""
        expected = [
            (2, channels, _SHAPE[0] // stride, _SHAPE[1] // stride)
            for channels, stride in zip(backbone.channels, self.strides, strict=True)
        ]
        levels = backbone(images)
        assert [tuple(level.shape) for level in levels] == expected
        assert all(level.isfinite().all() and level.std() > 0 for level in levels)

    def test_never_trains(self, backbone: Backbone):
        """No parameter takes a gradient, and no module is in training mode."""
        assert not any(parameter.requires_grad for parameter in backbone.parameters())
        assert not any(module.training for module in backbone.train().modules())

    def test_weights_are_those_of_the_package(self, backbone: Backbone, weights: Weights):
        """All are loaded: what is not would be random, and so another each time."""
        assert weights.file is not None
        assert weights_identity(weights) == f"file:{file_sha256(weights.file)}"
        assert Backbone(weights, self.strides).digest() == backbone.digest()

    def test_cut_network_gives_the_features_of_the_whole(
        self, backbone: Backbone, weights: Weights, images: torch.Tensor
    ):
        """Cutting it after the last level and folding its batch norms changes features by rounding alone."""
        with torch.no_grad():
            expected = pretrained_model(weights).forward_intermediates(
                (images - backbone.mean) / backbone.std, indices=backbone.levels, intermediates_only=True
            )
        for found, level in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, level, rtol=0, atol=1e-4 * float(level.abs().max()))

    def test_an_image_is_seen_alone(self, backbone: Backbone, images: torch.Tensor):
        """Its features do not depend on the other images of a batch."""
        for both, alone in zip(backbone(images), backbone(images[:1]), strict=True):
            torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-4 * float(alone.abs().max()))

    def test_levels_can_be_registered_on_a_grid(self, backbone: Backbone, images: torch.Tensor):
        """Positions look at less than a position beside their own pixels."""
        grid = FeatureGrid(backbone, self.strides[0], pool=1)
        assert all(abs(offset) < stride for offset, stride in zip(grid.offsets, self.strides, strict=True))
        shape = (2, _SHAPE[0] // self.strides[0], _SHAPE[1] // self.strides[0], sum(backbone.channels))
        assert tuple(grid(images).shape) == shape
