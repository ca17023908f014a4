"""PaDiM (arXiv 2011.08785) through anomalib."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from clflow.methods.peer import Peer, Scorer, chunks
from clflow.training.validation import validate

if TYPE_CHECKING:
    from clflow.features.extraction import Levels
    from clflow.training.data import FitData


@dataclass(frozen=True)
class PaDiM(Peer):
    """PaDiM (arXiv 2011.08785) with 100 random channels, as published for small backbones."""

    name: str = "anomalib-padim"
    strides: tuple[int, ...] = (4, 8, 16)
    channels: int = 100

    def build(self, levels: Levels, image_size: int) -> Scorer:
        """See `Peer.build`."""
        return _PaDiMScorer(levels, image_size, self.channels)

    def train(self, scorer: _PaDiMScorer, data: FitData, seed: int, device: torch.device) -> Iterator[dict[str, float]]:
        """See `Peer.train`."""
        scorer.gaussian.fit(torch.cat([scorer.embed(chunk) for chunk in chunks(data.normal, device)]))
        yield {"step": 1, "loss": 0.0, **validate(scorer.eval(), data, device)}


class _PaDiMScorer(Scorer):
    chosen: Tensor

    def __init__(self, levels: Levels, image_size: int, channels: int):
        super().__init__(levels, image_size)
        from anomalib.models.components import MultiVariateGaussian
        from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

        available = sum(levels.backbone.channels)
        self.register_buffer("chosen", torch.randperm(available)[:channels])
        self.gaussian, self.to_map = MultiVariateGaussian(), AnomalyMapGenerator()

    def embed(self, features_b11n: Tensor) -> Tensor:
        """Positions of the finest level, (B, C, h, w)."""
        levels = self.split(features_b11n, self.size[0])
        grid = levels[0].shape[2], levels[0].shape[3]
        levels = [F.interpolate(level, size=grid, mode="nearest") for level in levels]
        return torch.cat(levels, dim=1)[:, self.chosen]

    def forward(self, features_b11n: Tensor) -> tuple[Tensor, Tensor]:
        """See `Scorer`."""
        maps = self.to_map(
            embedding=self.embed(features_b11n),
            mean=self.gaussian.mean,
            inv_covariance=self.gaussian.inv_covariance,
            image_size=self.size,
        )[:, 0]
        return maps, maps.amax(dim=(1, 2))


PADIM = PaDiM()
