"""Base of the methods from anomalib 2.7 (extra ``peers``).

anomalib's own modules embed, score, blur and pool. Only the backbone is ours, so that all methods see the same
weights, and its levels come from our cache. What differs from anomalib beyond that is said at each class.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from clflow.calibration import Thresholds
from clflow.errors import ParameterError
from clflow.features.backbone import Backbone
from clflow.features.extraction import Features, Levels
from clflow.model.detector import Detector
from clflow.randomness import seeded
from clflow.training.validation import score_features

if TYPE_CHECKING:
    from clflow.config.params import Params
    from clflow.config.schema import Model
    from clflow.features.weights import Weights
    from clflow.training.data import FitData
    from clflow.training.worker import Training, Worker

BATCH = 32


@contextmanager
def _installed() -> Iterator[None]:
    """Import anomalib inside of this, or say how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ParameterError(
            f"methods anomalib-* need a package that is not installed ({error.name}); pip install 'clflow[peers]'."
        ) from None


class Scorer(nn.Module):
    """A peer on the levels of a backbone: features (B, 1, 1, N) to score maps (B, S, S) and image scores (B,)."""

    def __init__(self, levels: Levels, image_size: int):
        super().__init__()
        self.split = levels.split
        self.size = (image_size, image_size)


@dataclass(frozen=True)
class Peer(ABC):
    """A method from anomalib. One process trains, and an interrupted training begins again."""

    name: str
    strides: tuple[int, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """See `Method.parameters`: few, for a peer trains by the settings of anomalib."""
        return ("protocol.image_size", "protocol.holdout", "protocol.false_alarm_rate", "model.grid")

    def features(self, weights: Weights, model: Model) -> Levels:
        """See `Method.features`."""
        return Levels(Backbone(weights, self.strides), model.grid)

    def scorer(self, features: Features, model: Model, image_size: int, seed: int) -> Scorer:
        """See `Method.scorer`."""
        assert isinstance(features, Levels), "the features of a peer"
        with _installed(), seeded(seed):
            return self.build(features, image_size)

    @abstractmethod
    def build(self, levels: Levels, image_size: int) -> Scorer:
        """The untrained scorer, drawing from the global generators."""

    @abstractmethod
    def train(self, scorer: Any, data: FitData, seed: int, device: torch.device) -> Iterator[dict[str, float]]:
        """Train the scorer in place; yields at least one point of its learning curves, with `validate`'s figures."""

    def fit(
        self,
        features: Features,
        data: FitData,
        params: Params,
        seed: int,
        worker: Worker,
        resume: Path | None = None,
    ) -> Training[tuple[Detector, list[dict[str, float]]]]:
        """See `Method.fit`; ``resume`` holds nothing."""
        if worker.world > 1:
            raise ParameterError(f"{self.name} trains in one process; set resources.workers_per_cell to 1.")
        model, size = params.model, params.protocol.image_size
        scorer = self.scorer(features, model, size, seed).to(worker.device)
        history: list[dict[str, float]] = []
        begin = time.perf_counter()
        for figures in self.train(scorer, data, seed, worker.device):
            point = {**figures, "seconds": time.perf_counter() - begin}
            history.append(point)
            yield point, lambda folder: None
        maps, scores = score_features(scorer.eval(), data.held_out_normal, worker.device)
        limits = Thresholds.keeping(params.protocol.false_alarm_rate, maps.numpy(), scores.numpy())
        return Detector(self.name, features, scorer, model, seed, size, limits), history


def chunks(features: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(features), BATCH):
        yield torch.from_numpy(np.array(features[start : start + BATCH])).to(device).float()
