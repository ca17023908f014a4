"""The detector: frozen features, a trained scorer of them, and thresholds; how it is kept is here, too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clflow.chunks import POSITIONS_AT_ONCE, map_in_chunks
from clflow.config.schema import Model
from clflow.features.extraction import Features
from clflow.files import write_json
from clflow.model.flow import Flow, Flows

WEIGHTS_FILE = "scorer.safetensors"
CONFIG_FILE = "config.json"
_T_DOF = 8.0  # degrees of freedom of the t distribution that positions are scored by
_LOCAL_SIGMA = 0.125  # standard deviation of the local mean, of the map's side
_LOCAL_WEIGHT = 0.25  # share of the local mean that is subtracted


@dataclass(frozen=True)
class Thresholds:
    """From held-out normal images only: scores above which an image, or a pixel, is called anomalous, and the
    median score of a pixel, where the colours of a heat map begin."""

    image: float
    pixel: float
    median_pixel_score: float


class Detector(nn.Module):
    """Frozen features plus what a method has trained on them.

    Args:
        method: name of the method.
        features: what the scorer sees of an image.
        scorer: features of B images to score maps (B, h, w) and image scores (B,).
        model: the parameters both were built from.
        seed: the seed the scorer was built with.
        image_size: side in pixels of the square images it was trained on.
        thresholds: image and pixel thresholds.
    """

    def __init__(
        self,
        method: str,
        features: Features,
        scorer: nn.Module,
        model: Model,
        seed: int,
        image_size: int,
        thresholds: Thresholds,
    ):
        super().__init__()
        self.method, self.features, self.scorer = method, features, scorer
        self.model, self.seed, self.image_size, self.thresholds = model, seed, image_size, thresholds
        self.eval()

    @torch.no_grad()
    def forward(self, images_bhwc: Tensor) -> tuple[Tensor, Tensor]:
        """Score maps (B, h, w) and image scores (B,) of RGB images (B, H, W, 3) uint8."""
        return self.scorer(self.features.of_images(images_bhwc))

    def parameter_count(self) -> int:
        """Trainable parameters: what the method adds to the backbone."""
        return sum(p.numel() for p in self.scorer.parameters() if p.requires_grad)

    def save(self, folder: Path) -> None:
        """Write the scorer as safetensors and all else as JSON. The backbone is named, with a digest, not stored."""
        save_file(
            {name: tensor.contiguous() for name, tensor in self.scorer.state_dict().items()}, folder / WEIGHTS_FILE
        )
        config: dict[str, Any] = {
            "method": self.method,
            "model": self.model.model_dump(mode="json"),
            "features": list(self.features.identity),
            "backbone_digest": self.features.backbone.digest(),
            "seed": self.seed,
            "image_size": self.image_size,
            "thresholds": asdict(self.thresholds),
        }
        write_json(folder / CONFIG_FILE, config)


class FlowScorer(nn.Module):
    """Scores positions by how unlikely they are under flows, less the local mean, and an image by its highest.

    Args:
        flows: for the channels of the feature grid.
        top_fraction: share of the positions that an image score is the mean of.
    """

    def __init__(self, flows: Flows, top_fraction: float):
        super().__init__()
        self.flows, self.top_fraction = flows, top_fraction

    def forward(self, features_bhwc: Tensor) -> tuple[Tensor, Tensor]:
        """Score maps (B, h, w), see `subtract_local_mean`, and image scores (B,) of feature grids."""
        maps_bhw = subtract_local_mean(score_maps(self.flows, features_bhwc))
        return maps_bhw, pool_scores(maps_bhw, self.top_fraction)


def build_flows(model: Model, channels: int, seed: int) -> Flows:
    """Untrained flows as the parameters describe them, all different, also from those of every other seed."""
    seeds = range(seed * model.flows, (seed + 1) * model.flows)
    return Flows([Flow(channels, model.coupling_steps, model.hidden_ratio, model.coupling, each) for each in seeds])


def anomaly_score(z_nc: Tensor, logdet_n: Tensor) -> Tensor:
    """How unlikely positions (N,) are, in nats per dimension, up to a constant.

    The flow is trained for a standard normal latent, but a rare normal position can lie a hundred standard deviations
    out in a few of its dimensions. Student's t in place of the normal lets these few count by their logarithm, so that
    an anomaly is what is unusual in many.
    """
    tails_nc = (_T_DOF + 1) / 2 * torch.log1p(z_nc.pow(2) / _T_DOF)
    return (tails_nc.sum(dim=1) - logdet_n) / z_nc.shape[1]


def score_maps(flows: Flows, features_bhwc: Tensor) -> Tensor:
    """Anomaly score (B, h, w) of every position of feature grids, the mean over flows."""

    def mean_score(rows_nc: Tensor) -> Tensor:
        return torch.stack([anomaly_score(*latents) for latents in flows(rows_nc)]).mean(dim=0)

    rows_nc = features_bhwc.reshape(-1, features_bhwc.shape[-1])
    return map_in_chunks(mean_score, rows_nc, POSITIONS_AT_ONCE).reshape(features_bhwc.shape[:-1])


def subtract_local_mean(maps_bhw: Tensor) -> Tensor:
    """Score maps (B, h, w) less a quarter of their local Gaussian mean.

    Deep features see far beyond their position, so a defect raises the scores of all that is near it, as a change of
    light or place raises those of a whole image. What is defective is where the score stands out. The mean is over
    positions of the map alone, so its border is like its middle.
    """
    rows, columns = (_gaussian_mean(size, maps_bhw) for size in maps_bhw.shape[1:])
    return maps_bhw - _LOCAL_WEIGHT * (rows @ maps_bhw @ columns.T)


def _gaussian_mean(size: int, like: Tensor) -> Tensor:
    """(size, size): its product with a vector is the Gaussian mean about each element."""
    places = torch.arange(size, dtype=like.dtype, device=like.device)
    distances = (places[:, None] - places) / (_LOCAL_SIGMA * size)
    return (-0.5 * distances.square()).softmax(dim=1)


def pool_scores(maps_bhw: Tensor, top_fraction: float) -> Tensor:
    """Image scores (B,): mean of the highest share of each score map, at least one position."""
    flat = maps_bhw.flatten(1)
    return flat.topk(max(1, round(flat.shape[1] * top_fraction)), dim=1).values.mean(dim=1)
