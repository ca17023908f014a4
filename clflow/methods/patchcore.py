"""PatchCore (arXiv 2106.08265) through anomalib."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from clflow.methods.peer import Peer, Scorer, chunks
from clflow.training.validation import validate

if TYPE_CHECKING:
    from clflow.features.extraction import Levels
    from clflow.training.data import FitData

_FEW = 0.1  # of all rows: below it, picking them out is faster than a product with all


@dataclass(frozen=True)
class PatchCore(Peer):
    """PatchCore (arXiv 2106.08265) with 9 neighbours.

    The coreset is chosen by the greedy rule that anomalib has, exactly, but on the features themselves instead of a
    random projection of them (which would have more dimensions than these features).

    Attributes:
        coreset: share of the positions that is kept, as published.
    """

    name: str = "anomalib-patchcore"
    strides: tuple[int, ...] = (8, 16)
    coreset: float = 0.1

    def build(self, levels: Levels, image_size: int) -> Scorer:
        """See `Peer.build`."""
        return _PatchCoreScorer(levels, image_size)

    def train(
        self, scorer: _PatchCoreScorer, data: FitData, seed: int, device: torch.device
    ) -> Iterator[dict[str, float]]:
        """See `Peer.train`."""
        rows = torch.cat([scorer.embed(chunk).flatten(0, 2) for chunk in chunks(data.normal, device)])
        first = int(np.random.default_rng(seed).integers(len(rows)))
        chosen, radius = farthest_points(rows, max(round(len(rows) * self.coreset), 1), first)
        scorer.peer.memory_bank = rows[chosen]
        yield {"step": 1, "loss": radius, **validate(scorer.eval(), data, device)}


def farthest_points(rows_nc: Tensor, count: int, first: int) -> tuple[Tensor, float]:
    """Greedy k-centre: indices (count,) of rows, each the farthest from those before it, and how far the rest are.

    A new centre can win only rows that are farther from their own than half of what lies between the two centres
    (the triangle inequality; Elkan, ICML 2003, lemma 1). Where these are few, the others are not looked at.
    """
    squares_n = rows_nc.square().sum(dim=1)
    chosen_k = torch.full((count,), first, device=rows_nc.device)
    centres_kc, squares_k = rows_nc[chosen_k], squares_n[chosen_k]
    own_n = torch.zeros(len(rows_nc), dtype=torch.int32, device=rows_nc.device)
    distance_n = _distances(rows_nc, squares_n, centres_kc[0])
    for k in range(1, count):
        new = distance_n.argmax()
        chosen_k[k], centres_kc[k], squares_k[k] = new, rows_nc[new], squares_n[new]
        apart_k = _distances(centres_kc[:k], squares_k[:k], centres_kc[k])
        near = torch.nonzero(distance_n > apart_k.index_select(0, own_n) / 2)[:, 0]
        if len(near) > _FEW * len(rows_nc):
            closer = _distances(rows_nc, squares_n, centres_kc[k])
            own_n.masked_fill_(closer < distance_n, k)
            torch.minimum(distance_n, closer, out=distance_n)
        else:
            closer = _distances(rows_nc[near], squares_n[near], centres_kc[k])
            won = closer < distance_n[near]
            own_n[near[won]], distance_n[near[won]] = k, closer[won]
    return chosen_k, float(distance_n.max())


def _distances(rows_nc: Tensor, squares_n: Tensor, centre_c: Tensor) -> Tensor:
    return (squares_n - 2 * (rows_nc @ centre_c) + centre_c.square().sum()).clamp(min=0).sqrt()


class _PatchCoreScorer(Scorer):
    def __init__(self, levels: Levels, image_size: int):
        super().__init__(levels, image_size)
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        # It insists on a backbone of its own, which is dropped at once.
        self.peer = PatchcoreModel(layers=["layer1"], backbone="resnet18", pre_trained=False, num_neighbors=9)
        self.peer.add_module("feature_extractor", nn.Identity())
        self.peer.layers = [str(stride) for stride in levels.backbone.strides]

    def embed(self, features_b11n: Tensor) -> Tensor:
        """Positions (B, h, w, C)."""
        pooled = [self.peer.feature_pooler(level) for level in self.split(features_b11n, self.size[0])]
        return self.peer.generate_embedding(dict(zip(self.peer.layers, pooled, strict=True))).permute(0, 2, 3, 1)

    def forward(self, features_b11n: Tensor) -> tuple[Tensor, Tensor]:
        """See `Scorer`."""
        embedding_bhwc = self.embed(features_b11n)
        b, h, w, c = embedding_bhwc.shape
        rows = embedding_bhwc.reshape(-1, c)
        distances, places = (part.reshape(b, -1) for part in self.peer.nearest_neighbors(rows, n_neighbors=1))
        maps = self.peer.anomaly_map_generator(distances.reshape(b, 1, h, w), self.size)
        return maps[:, 0], self.peer.compute_anomaly_score(distances, places, rows)


PATCHCORE = PatchCore()
PATCHCORE_1 = PatchCore("anomalib-patchcore-1", coreset=0.01)
