"""Scores of held-out images, and the figures by which trainings are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from clflow.errors import DivergenceError
from clflow.metrics import image_metrics, pixel_metrics

if TYPE_CHECKING:
    from clflow.training.data import FitData

_BATCH = 32

VALIDATION = "validation"
"""Key of the figure by which trainings are compared: the mean of the image AUROC and of the AUPRO, by position and up
to a false positive rate of 0.3, of held-out normal images and synthetic anomalies."""


@torch.no_grad()
def score_features(scorer: nn.Module, features: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Score maps (N, h, w) and image scores (N,) of cached features, on the CPU."""
    scored = []
    for start in range(0, len(features), _BATCH):
        chunk = torch.from_numpy(features[start : start + _BATCH]).to(device).float()
        scored.append([scores.cpu() for scores in scorer(chunk)])
    maps, image_scores = zip(*scored, strict=True)
    return torch.cat(maps), torch.cat(image_scores)


def validate(scorer: nn.Module, data: FitData, device: torch.device) -> dict[str, float]:
    """How well held-out normal images are told from synthetic anomalies: figures of a learning curve.

    Raises:
        DivergenceError: a score is not finite.
    """
    normal, synthetic = (
        score_features(scorer, features, device) for features in (data.held_out_normal, data.held_out_synthetic)
    )
    maps, image_scores = (torch.cat(pair) for pair in zip(normal, synthetic, strict=True))
    if not maps.isfinite().all():
        raise DivergenceError(
            "training diverged: the scores of held-out images are not finite; lower train.learning_rate."
        )
    masks = data.held_out_masks()
    labels = np.repeat([0, 1], [len(data.held_out_normal), len(data.held_out_synthetic)])
    auroc = image_metrics(labels, image_scores.numpy())["image_auroc"]
    by_position = nn.functional.adaptive_avg_pool2d(maps[:, None], masks.shape[1:])[:, 0].numpy()
    aupro = pixel_metrics(masks, by_position)["aupro_30"]
    return {"validation_auroc": auroc, "validation_aupro": aupro, VALIDATION: (auroc + aupro) / 2}
