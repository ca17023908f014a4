"""White features for training, cross-fitted: no image is whitened by statistics that it is part of.

A position has as many samples as there are images, for hundreds of dimensions, so training images lie closer to their
own statistics than any other image does. A flow that is trained on them learns a normal that no other image meets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clflow.features.statistics import mean_and_covariance
from clflow.model.whitening import LayoutWhitening

if TYPE_CHECKING:
    from clflow.model.scorer import FlowScorer
    from clflow.training.data import FitData

_FOLDS = 4
_BATCH = 32


@dataclass(frozen=True)
class White:
    """White features of images, and the log-determinants of what whitened them.

    Attributes:
        features: (N, h, w, K) float16, on the CPU.
        logdet: (N, h, w) float32, on the CPU.
    """

    features: Tensor
    logdet: Tensor


def whiten(scorer: FlowScorer, data: FitData, device: torch.device) -> tuple[White, White]:
    """Fit the scorer's whitening to all normal training images; returns normal and synthetic ones, cross-fitted.

    Images are dealt into folds, a synthetic one into that of its original, and each fold is whitened by the
    statistics of the others.

    Raises:
        DataError: features are not finite.
    """
    scorer.whitening.fit(*mean_and_covariance(data.normal, device))
    layout = scorer.layout

    def globally(features: np.ndarray, chosen: np.ndarray) -> Iterator[Tensor]:
        for start in range(0, len(chosen), _BATCH):
            rows = torch.from_numpy(features[chosen[start : start + _BATCH]]).to(device).float()
            yield scorer.whitening(rows)

    images = np.arange(len(data.normal))
    folds = min(_FOLDS, len(images))
    normal, synthetic = (
        White(
            torch.empty(*features.shape[:3], scorer.whitening.matrix.shape[1], dtype=torch.float16),
            torch.zeros(features.shape[:3]),
        )
        for features in (data.normal, data.synthetic)
    )
    for fold in range(folds):
        others = None
        if layout is not None:
            others = LayoutWhitening(*layout.logdet.shape, layout.mean.shape[-1], layout.shrinkage).to(device)
            rest = images[images % folds != fold] if folds > 1 else images
            others.fit(lambda rest=rest: globally(data.normal, rest), len(images))
        for white, features, place in ((normal, data.normal, images), (synthetic, data.synthetic, data.original)):
            chosen = np.flatnonzero(place % folds == fold)
            start = 0
            for rows in globally(features, chosen):
                at = torch.from_numpy(chosen[start : start + len(rows)])
                white.features[at] = (rows if others is None else others(rows)).half().cpu()
                if others is not None:
                    white.logdet[at] = others.logdet.cpu()
                start += len(rows)
    if layout is not None:
        layout.fit(lambda: globally(data.normal, images), len(images))
    return normal, synthetic
