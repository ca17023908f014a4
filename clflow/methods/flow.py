"""CL-Flow, and the plain flow it grew from (FastFlow's idea, arXiv 2111.07677): the same code without its losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clflow.fit import Training, Worker, fit, thresholds
from clflow.fitdata import FitData
from clflow.model.detector import Detector
from clflow.model.features import FeatureGrid
from clflow.params import Params


@dataclass(frozen=True)
class FlowMethod:
    """A flow on frozen features.

    Attributes:
        contrastive: learn from synthetic anomalies, too. Without, only the likelihood of normals is left.
    """

    contrastive: bool

    def fit(
        self,
        features: FeatureGrid,
        data: FitData,
        params: Params,
        seed: int,
        worker: Worker,
        resume: Path | None = None,
    ) -> Training[tuple[Detector, list[dict[str, float]]]]:
        """See `Method.fit`."""
        model, loss = params.model, params.loss
        if not self.contrastive:
            loss = loss.likelihood_alone()
        flow, history = yield from fit(data, model, loss, params.train, seed, worker, resume)
        limits = thresholds(flow, data, model, params.protocol.threshold_quantile, worker.device)
        return Detector(features, flow, model, seed, params.protocol.image_size, limits), history
