"""Batches of positions: drawn from the seed and the step alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from clflow.config.schema import Train
    from clflow.training.crossfit import White
    from clflow.training.data import FitData
    from clflow.training.worker import Worker


@dataclass(frozen=True)
class Batch:
    """Positions as rows: ``normals`` of normal images, then for each pair as many of its box in the original, and in
    the synthetic image of the same box, of the anomaly itself, and of normal positions near it. ``features`` (N, K)
    are white, ``logdet`` (N,) is that of their whitening."""

    features: Tensor
    logdet: Tensor
    normals: int
    pairs: int


class Sampler:
    """Draws every step's batch from (seed, step) alone, so that a resumed run sees what it would have seen.

    With several workers each takes its share of the same draw.
    """

    def __init__(self, data: FitData, normal: White, synthetic: White, train: Train, seed: int, worker: Worker):
        self.data, self.train, self.seed, self.worker = data, train, seed, worker
        self.positions = data.normal.shape[1] * data.normal.shape[2]
        self.normal, self.synthetic = (_Rows(white, worker.device) for white in (normal, synthetic))
        self.boxes = [_box_positions(box, data.normal.shape[2]) for box in data.boxes]
        self.anomalies, self.near_anomaly = data.anomalous_positions(), data.near_anomaly_positions()

    def draw(self, step: int, pairs: bool) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        share = slice(self.worker.rank, None, self.worker.world)
        rows = [self.normal.take(rng.integers(len(self.normal), size=self.train.positions)[share])]
        normals, count = len(rows[0][0]), 0
        if pairs:
            chosen = rng.integers(len(self.synthetic) // self.positions, size=self.train.pairs)
            box, anomaly, near_anomaly = (
                self._positions(rng, places, chosen)[share]
                for places in (self.boxes, self.anomalies, self.near_anomaly)
            )
            chosen = chosen[share]
            count = len(chosen)
            rows.append(self.normal.take((self.data.original[chosen, None] * self.positions + box).ravel()))
            for places in (box, anomaly, near_anomaly):
                rows.append(self.synthetic.take((chosen[:, None] * self.positions + places).ravel()))
        features, logdet = (torch.cat(parts).to(self.worker.device).float() for parts in zip(*rows, strict=True))
        return Batch(features, logdet, normals, count)

    def _positions(self, rng: np.random.Generator, places: list[np.ndarray], chosen: np.ndarray) -> np.ndarray:
        """(P, K) positions, drawn with replacement from each chosen image's places."""
        uniform = rng.random((len(chosen), self.train.box_positions))
        return np.stack(
            [places[i][(u * len(places[i])).astype(np.int64)] for i, u in zip(chosen, uniform, strict=True)]
        )


class _Rows:
    """All positions as rows; in an accelerator's memory if they take at most half of what is free there."""

    def __init__(self, white: White, device: torch.device):
        self.features, self.logdet = white.features.flatten(0, 2), white.logdet.flatten()
        if device.type == "cuda" and self.features.nbytes <= torch.cuda.mem_get_info(device)[0] / 2:
            self.features, self.logdet = self.features.to(device), self.logdet.to(device)

    def __len__(self) -> int:
        return len(self.logdet)

    def take(self, places: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(places).to(self.logdet.device)
        return self.features[rows], self.logdet[rows]


def _box_positions(box: np.ndarray, width: int) -> np.ndarray:
    x0, y0, x1, y1 = box
    return (np.arange(y0, y1)[:, None] * width + np.arange(x0, x1)).ravel()
