"""CL-Flow, and the plain flow it grew from (FastFlow's idea, arXiv 2111.07677): the same code without its losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clflow.config.params import Params
from clflow.config.schema import Model
from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid, Features
from clflow.features.weights import Weights
from clflow.model.detector import Detector, FlowScorer, build_flows
from clflow.training.data import FitData
from clflow.training.loop import Training, Worker, fit, thresholds


@dataclass(frozen=True)
class FlowMethod:
    """A flow on frozen features.

    Attributes:
        name: of the method.
        contrastive: learn from synthetic anomalies, too. Without, only the likelihood of normals is left.
    """

    name: str
    contrastive: bool

    @property
    def sections(self) -> tuple[str, ...]:
        """See `Method.sections`."""
        return ("loss", "train") if self.contrastive else ("train",)

    def features(self, weights: Weights, model: Model) -> FeatureGrid:
        """See `Method.features`."""
        return FeatureGrid(Backbone(weights, model.strides), model.grid, model.pool)

    def scorer(self, features: Features, model: Model, image_size: int, seed: int) -> FlowScorer:
        """See `Method.scorer`."""
        return FlowScorer(build_flows(model, sum(features.backbone.channels), seed), model.top_fraction)

    def fit(
        self,
        features: Features,
        data: FitData,
        params: Params,
        seed: int,
        worker: Worker,
        resume: Path | None = None,
    ) -> Training[tuple[Detector, list[dict[str, float]]]]:
        """See `Method.fit`."""
        model, size = params.model, params.protocol.image_size
        loss = params.loss if self.contrastive else params.loss.likelihood_alone()
        scorer, history = yield from fit(data, model, loss, params.train, seed, worker, resume)
        limits = thresholds(scorer, data, params.protocol.threshold_quantile, worker.device)
        return Detector(self.name, features, scorer, model, seed, size, limits), history
