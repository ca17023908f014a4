"""The protocol of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import nn

from clflow.config.params import Params
from clflow.config.schema import Model
from clflow.features.extraction import Features
from clflow.features.weights import Weights
from clflow.model.detector import Detector
from clflow.training.data import FitData
from clflow.training.worker import Training, Worker


@runtime_checkable
class Method(Protocol):
    """Trains the detector of one cell."""

    @property
    def name(self) -> str:
        """As in ``benchmark.methods``."""
        ...

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters, ``section.name``, that determine what is trained, beside backbone, weights and synthesis."""
        ...

    def features(self, weights: Weights, model: Model) -> Features:
        """The features that it uses, from a backbone with these weights."""
        ...

    def scorer(self, features: Features, model: Model, image_size: int, seed: int) -> nn.Module:
        """The untrained module that a detector of this method holds; see `Detector`."""
        ...

    def fit(
        self,
        features: Features,
        data: FitData,
        params: Params,
        seed: int,
        worker: Worker,
        resume: Path | None = None,
    ) -> Training[tuple[Detector, list[dict[str, float]]]]:
        """Train on one category; returns the detector and its learning curves.

        Raises:
            DivergenceError: training left the range of useful numbers.
        """
        ...
