"""The detector: frozen features, a trained scorer and thresholds; saving it to a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clflow.files import write_json
from clflow.plugins import required

if TYPE_CHECKING:
    from clflow.calibration import Thresholds
    from clflow.config.schema import Model
    from clflow.features.extraction import Features

WEIGHTS_FILE = "scorer.safetensors"
CONFIG_FILE = "config.json"


class Detector(nn.Module):
    """Frozen features, a trained scorer of them, and thresholds.

    Args:
        method: name of the method.
        features: input of the scorer, computed from images.
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
        """Number of trainable parameters that the method adds to the backbone."""
        return sum(p.numel() for p in self.scorer.parameters() if p.requires_grad)

    def save(self, folder: Path) -> None:
        """Write the scorer as safetensors and all else as JSON. The backbone is named, with a digest, not stored."""
        save_file(
            {name: tensor.contiguous() for name, tensor in self.scorer.state_dict().items()}, folder / WEIGHTS_FILE
        )
        config: dict[str, Any] = {
            "method": self.method,
            "plugins": required(self.method, self.model.backbone),
            "model": self.model.model_dump(mode="json"),
            "features": list(self.features.identity),
            "backbone_digest": self.features.backbone.digest(),
            "seed": self.seed,
            "image_size": self.image_size,
            "thresholds": asdict(self.thresholds),
        }
        write_json(folder / CONFIG_FILE, config)
