"""Statistics of cached features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clflow.errors import DataError

_BATCH = 32


def mean_and_covariance(features: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) over all images and positions, in double precision, a chunk at a time."""
    channels = features.shape[-1]
    total = torch.zeros(channels, dtype=torch.float64, device=device)
    products = torch.zeros(channels, channels, dtype=torch.float64, device=device)
    for start in range(0, len(features), _BATCH):
        rows = torch.from_numpy(features[start : start + _BATCH]).to(device).double().reshape(-1, channels)
        total += rows.sum(dim=0)
        products += rows.T @ rows
    if not products.isfinite().all():
        raise DataError(
            "features of normal training images are not finite in half precision; choose another model.backbone "
            "or other weights."
        )
    count = features.size // channels
    mean = (total / count).cpu()
    return mean, products.cpu() / count - mean.outer(mean)
