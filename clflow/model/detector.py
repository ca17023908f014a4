"""The detector: frozen features, a flow on them, a score map, an image score, and thresholds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clflow.errors import DataError, WeightsError
from clflow.files import read_json, write_json
from clflow.model.backbone import Backbone, find_weights
from clflow.model.features import FeatureGrid
from clflow.model.flow import Flow
from clflow.model.losses import anomaly_score
from clflow.sections import Model

WEIGHTS_FILE = "flow.safetensors"
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Thresholds:
    """From held-out normal images only: scores above which an image, or a pixel, is called anomalous, and the
    typical score of a pixel, the median, where the colours of a heat map begin."""

    image: float
    pixel: float
    typical: float


class Detector(nn.Module):
    """Frozen backbone plus trained flow.

    Args:
        features: the feature grid.
        flow: the trained flow, for ``features.channels`` channels.
        model: the parameters both were built from.
        seed: the seed the flow was built with.
        image_size: side in pixels of the square images it was trained on.
        thresholds: image and pixel thresholds.
    """

    def __init__(
        self,
        features: FeatureGrid,
        flow: Flow,
        model: Model,
        seed: int,
        image_size: int,
        thresholds: Thresholds,
    ):
        super().__init__()
        self.features, self.flow = features, flow
        self.model, self.seed, self.image_size, self.thresholds = model, seed, image_size, thresholds
        self.eval()

    @torch.no_grad()
    def forward(self, images_bhwc: Tensor) -> Tensor:
        """Score maps (B, h, w), in nats per dimension, of RGB images (B, H, W, 3) uint8."""
        return score_maps(self.flow, self.features.of_images(images_bhwc))

    def image_scores(self, maps_bhw: Tensor) -> Tensor:
        """Image scores (B,) of score maps."""
        return pool_scores(maps_bhw, self.model.top_fraction)

    def save(self, folder: Path) -> None:
        """Write the flow as safetensors and all else as JSON. The backbone is named, with a digest, not stored."""
        save_file(self.flow.state_dict(), folder / WEIGHTS_FILE)
        config: dict[str, Any] = {
            "model": self.model.model_dump(mode="json"),
            "backbone_digest": self.features.backbone.digest(),
            "seed": self.seed,
            "image_size": self.image_size,
            "thresholds": asdict(self.thresholds),
        }
        write_json(folder / CONFIG_FILE, config)

    @classmethod
    def load(cls, folder: Path, features: FeatureGrid | None = None) -> Detector:
        """Read what `save` wrote.

        Args:
            folder: of the detector.
            features: the feature grid of another detector of the same backbone, to share it.

        Raises:
            DataError: the folder holds no detector.
            WeightsError: the backbone's weights are missing or are not those of the training.
        """
        try:
            config = read_json(folder / CONFIG_FILE)
            state = load_file(folder / WEIGHTS_FILE)
        except FileNotFoundError as error:
            raise DataError(f"{folder} holds no trained detector ({Path(error.filename).name} is missing).") from None
        model = Model.model_validate_json(json.dumps(config["model"]))
        if features is None:
            backbone = Backbone(find_weights(model.backbone, model.weights), model.strides)
            features = FeatureGrid(backbone, model.grid, model.pool)
        if features.backbone.digest() != config["backbone_digest"]:
            raise WeightsError(
                f"the weights of {model.backbone} from {model.weights!r} are not those that {folder} was trained with; "
                "install the same weights or train again."
            )
        flow = build_flow(model, features.channels, config["seed"])
        flow.load_state_dict(state)
        return cls(features, flow, model, config["seed"], config["image_size"], Thresholds(**config["thresholds"]))


def build_flow(model: Model, channels: int, seed: int) -> Flow:
    """An untrained flow as the parameters describe it."""
    return Flow(channels, model.coupling_steps, model.hidden_ratio, model.coupling, seed)


def score_maps(flow: Flow, features_bhwc: Tensor) -> Tensor:
    """Anomaly score (B, h, w) of every position of feature grids."""
    z_nc, logdet_n = flow(features_bhwc.reshape(-1, features_bhwc.shape[-1]))
    return anomaly_score(z_nc, logdet_n).reshape(features_bhwc.shape[:-1])


def pool_scores(maps_bhw: Tensor, top_fraction: float) -> Tensor:
    """Image scores (B,): mean of the highest share of each score map, at least one position."""
    flat = maps_bhw.flatten(1)
    return flat.topk(max(1, round(flat.shape[1] * top_fraction)), dim=1).values.mean(dim=1)
