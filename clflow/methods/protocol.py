"""What every method offers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from clflow.fit import Training, Worker
from clflow.fitdata import FitData
from clflow.model.detector import Detector
from clflow.model.features import FeatureGrid
from clflow.params import Params


class Method(Protocol):
    """Trains one cell; what comes out is self-contained."""

    def fit(
        self,
        features: FeatureGrid,
        data: FitData,
        params: Params,
        seed: int,
        worker: Worker,
        resume: Path | None = None,
    ) -> Training[tuple[Detector, list[dict[str, float]]]]:
        """Train on one category; what comes out is the detector and its learning curves.

        Raises:
            DivergenceError: training left the range of useful numbers.
        """
        ...
