"""A Gaussian at each position of the feature grid, with a diagonal covariance."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clflow.calibration import Thresholds
from clflow.config.params import Params
from clflow.config.schema import Model
from clflow.errors import ParameterError
from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid
from clflow.features.weights import Weights
from clflow.model.detector import Detector
from clflow.training.data import FitData
from clflow.training.validation import score_features, validate
from clflow.training.worker import Training, Worker


class Scorer(nn.Module):
    """Features (B, h, w, C) to score maps (B, h, w) and image scores (B,)."""

    chosen: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, available: int, channels: int, side: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("chosen", torch.randperm(available, generator=generator)[:channels])
        self.register_buffer("mean", torch.zeros(side, side, channels))
        self.register_buffer("deviation", torch.ones(side, side, channels))

    def learn(self, features_nhwc: np.ndarray) -> None:
        """Take mean and deviation of normal images."""
        rows = torch.from_numpy(features_nhwc).to(self.mean.device).float()[..., self.chosen]
        self.mean = rows.mean(dim=0)
        own, everywhere = rows.var(dim=0), rows.var(dim=(0, 1, 2))
        self.deviation = (own + everywhere).sqrt()

    def forward(self, features_bhwc: Tensor) -> tuple[Tensor, Tensor]:
        z = (features_bhwc[..., self.chosen] - self.mean) / self.deviation
        maps = z.square().mean(dim=-1)
        return maps, maps.amax(dim=(1, 2))


@dataclass(frozen=True)
class Gaussian:
    """See `clflow.methods.protocol.Method`. Settings that no parameter holds, such as ``channels``, are attributes."""

    name: str = "example-gaussian"
    channels: int = 64

    @property
    def parameters(self) -> tuple[str, ...]:
        return (
            *("protocol.image_size", "protocol.holdout", "protocol.false_alarm_rate"),
            *("model.strides", "model.grid", "model.pool"),
        )

    def features(self, weights: Weights, model: Model) -> FeatureGrid:
        return FeatureGrid(Backbone(weights, model.strides), model.grid, model.pool)

    def scorer(self, features: FeatureGrid, model: Model, image_size: int, seed: int) -> Scorer:
        return Scorer(features.channels, self.channels, image_size // model.grid, seed)

    def fit(
        self,
        features: FeatureGrid,
        data: FitData,
        params: Params,
        seed: int,
        worker: Worker,
        resume: Path | None = None,
    ) -> Training[tuple[Detector, list[dict[str, float]]]]:
        if worker.world > 1:
            raise ParameterError(f"{self.name} trains in one process; set resources.workers_per_cell to 1.")
        begin, size = time.perf_counter(), params.protocol.image_size
        scorer = self.scorer(features, params.model, size, seed).to(worker.device)
        scorer.learn(data.normal)
        point = {"step": 1, "loss": 0.0, **validate(scorer, data, worker.device)}
        point["seconds"] = time.perf_counter() - begin
        yield point, lambda folder: None  # no checkpoint: an interrupted training begins again
        maps, scores = score_features(scorer, data.held_out_normal, worker.device)
        limits = Thresholds.keeping(params.protocol.false_alarm_rate, maps.numpy(), scores.numpy())
        return Detector(self.name, features, scorer, params.model, seed, size, limits), [point]


GAUSSIAN = Gaussian()
