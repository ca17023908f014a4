"""CL-Flow, and the plain flow it grew from (FastFlow's idea, arXiv 2111.07677): the same code without its losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid, Features
from clflow.model.detector import Detector
from clflow.model.scorer import FlowScorer, build_flows
from clflow.training.loop import fit, likelihood_alone
from clflow.training.validation import thresholds

if TYPE_CHECKING:
    from clflow.config.params import Params
    from clflow.config.schema import Model
    from clflow.features.weights import Weights
    from clflow.training.data import FitData
    from clflow.training.worker import Training, Worker

_LIKELIHOOD = (
    *("protocol.image_size", "protocol.holdout", "protocol.threshold_quantile"),
    *("model.strides", "model.grid", "model.pool", "model.coupling_steps", "model.hidden_ratio", "model.coupling"),
    *("model.flows", "model.top_fraction"),
    *("train.steps", "train.positions", "train.learning_rate", "train.warmup", "train.weight_decay"),
    *("train.clip_norm", "train.bfloat16", "train.eval_points", "train.keep_eval_weights"),
    "resources.workers_per_cell",  # they share a batch, so each sees another boundary
)
_CONTRAST = (
    *("loss.hardest", "loss.hardest_fraction", "loss.contrast", "loss.likelihood_margin", "loss.proxy"),
    *("loss.near_anomaly_normals", "loss.start", "loss.smoothing", "loss.boundary_quantile", "loss.margin"),
    *("loss.temperature", "train.pairs", "train.box_positions"),
)


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
    def parameters(self) -> tuple[str, ...]:
        """See `Method.parameters`."""
        return _LIKELIHOOD + (_CONTRAST if self.contrastive else ())

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
        loss = params.loss if self.contrastive else likelihood_alone(params.loss)
        scorer, history = yield from fit(data, model, loss, params.train, seed, worker, resume)
        limits = thresholds(scorer, data, params.protocol.threshold_quantile, worker.device)
        return Detector(self.name, features, scorer, model, seed, size, limits), history


CLFLOW = FlowMethod("clflow", contrastive=True)
FASTFLOW = FlowMethod("fastflow", contrastive=False)
