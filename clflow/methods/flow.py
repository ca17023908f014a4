"""CL-Flow, and the plain flow it grew from (FastFlow's idea, arXiv 2111.07677): the same code without its losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from clflow.calibration import Thresholds
from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid, Features
from clflow.model.detector import Detector
from clflow.model.scorer import FlowScorer, build_scorer
from clflow.training.loop import fit, likelihood_alone
from clflow.training.validation import score_features

if TYPE_CHECKING:
    from clflow.config.params import Params
    from clflow.config.schema import Model
    from clflow.features.weights import Weights
    from clflow.training.data import FitData
    from clflow.training.worker import Training, Worker

_LIKELIHOOD = (
    *("protocol.image_size", "protocol.holdout", "protocol.false_alarm_rate"),
    *("model.strides", "model.grid", "model.pool", "model.coupling_steps", "model.hidden_ratio", "model.coupling"),
    *("model.flows", "model.top_fraction", "model.kept_axes"),
    *("train.steps", "train.positions", "train.learning_rate", "train.warmup", "train.weight_decay"),
    *("train.clip_norm", "train.bfloat16", "train.eval_points", "train.keep_eval_weights"),
    "resources.workers_per_cell",  # they share a batch, so each sees another boundary
)
_CONTRAST = (
    *("loss.hardest", "loss.hardest_fraction", "loss.contrast", "loss.likelihood_margin", "loss.proxy"),
    *("loss.near_anomaly_normals", "loss.start", "loss.smoothing", "loss.boundary_quantile", "loss.margin"),
    *("loss.temperature", "train.pairs", "train.box_positions", "model.layout_shrinkage"),
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
        side = image_size // model.grid
        return build_scorer(model, sum(features.backbone.channels), (side, side), self.contrastive, seed)

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
        trained = yield from fit(data, model, loss, params.train, self.contrastive, seed, worker, resume)
        held_out = score_features(trained.scorer, data.held_out_normal, worker.device)
        maps, scores = (torch.cat(parts).numpy() for parts in zip(trained.cross_fitted, held_out, strict=True))
        limits = Thresholds.keeping(params.protocol.false_alarm_rate, maps, scores)
        return Detector(self.name, features, trained.scorer, model, seed, size, limits), trained.history


CLFLOW = FlowMethod("clflow", contrastive=True)
FASTFLOW = FlowMethod("fastflow", contrastive=False)
