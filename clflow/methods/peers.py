"""Peers through anomalib 2.7 (extra ``peers``): its PatchCore, PaDiM and FastFlow on our images and backbone weights.

anomalib's own modules embed, score, blur and pool. Only the backbone is ours, so that all methods see the same
weights, and its levels come from our cache. What differs from anomalib beyond that is said at each class.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clflow.config.params import Params
from clflow.config.schema import Model
from clflow.errors import DivergenceError, ParameterError
from clflow.features.backbone import Backbone
from clflow.features.extraction import Features, Levels
from clflow.features.weights import Weights
from clflow.model.detector import Detector
from clflow.randomness import seeded
from clflow.training.data import FitData
from clflow.training.loop import VALIDATION, Training, Worker, thresholds, validate

_BATCH = 32
_FEW = 0.1  # of all rows: below it, picking them out is faster than a product with all


@contextmanager
def _anomalib() -> Iterator[None]:
    """Import anomalib inside of this, or say how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ParameterError(
            f"methods anomalib-* need a package that is not installed ({error.name}); pip install 'clflow[peers]'."
        ) from None


class Scorer(nn.Module):
    """A peer on the levels of a backbone: features (B, 1, 1, N) to score maps (B, S, S) and image scores (B,)."""

    def __init__(self, levels: Levels, image_size: int):
        super().__init__()
        self.split = levels.split
        self.size = (image_size, image_size)


@dataclass(frozen=True)
class Peer(ABC):
    """What the peers share. One process trains, and an interrupted training begins again."""

    name: str
    strides: tuple[int, ...]

    @property
    def sections(self) -> tuple[str, ...]:
        """See `Method.sections`: none, for a peer trains by the settings of anomalib."""
        return ()

    def features(self, weights: Weights, model: Model) -> Levels:
        """See `Method.features`."""
        return Levels(Backbone(weights, self.strides), model.grid)

    def scorer(self, features: Features, model: Model, image_size: int, seed: int) -> Scorer:
        """See `Method.scorer`."""
        assert isinstance(features, Levels), "the features of a peer"
        with _anomalib(), seeded(seed):
            return self.build(features, image_size)

    @abstractmethod
    def build(self, levels: Levels, image_size: int) -> Scorer:
        """The untrained scorer, drawing from the global generators."""

    @abstractmethod
    def train(self, scorer: Any, data: FitData, seed: int, device: torch.device) -> Iterator[dict[str, float]]:
        """Train the scorer in place; yields at least one point of its learning curves, with `validate`'s figures."""

    def fit(
        self,
        features: Features,
        data: FitData,
        params: Params,
        seed: int,
        worker: Worker,
        resume: Path | None = None,
    ) -> Training[tuple[Detector, list[dict[str, float]]]]:
        """See `Method.fit`; ``resume`` holds nothing."""
        if worker.world > 1:
            raise ParameterError(f"{self.name} trains in one process; set resources.workers_per_cell to 1.")
        model, size = params.model, params.protocol.image_size
        scorer = self.scorer(features, model, size, seed).to(worker.device)
        history: list[dict[str, float]] = []
        begin = time.perf_counter()
        for figures in self.train(scorer, data, seed, worker.device):
            point = {**figures, "seconds": time.perf_counter() - begin}
            history.append(point)
            yield point, lambda folder: None
        limits = thresholds(scorer.eval(), data, params.protocol.threshold_quantile, worker.device)
        return Detector(self.name, features, scorer, model, seed, size, limits), history


def _chunks(features: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(features), _BATCH):
        yield torch.from_numpy(np.array(features[start : start + _BATCH])).to(device).float()


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
        rows = torch.cat([scorer.embed(chunk).flatten(0, 2) for chunk in _chunks(data.normal, device)])
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


@dataclass(frozen=True)
class PaDiM(Peer):
    """PaDiM (arXiv 2011.08785) with 100 random channels, as published for small backbones."""

    name: str = "anomalib-padim"
    strides: tuple[int, ...] = (4, 8, 16)
    channels: int = 100

    def build(self, levels: Levels, image_size: int) -> Scorer:
        """See `Peer.build`."""
        return _PaDiMScorer(levels, image_size, self.channels)

    def train(self, scorer: _PaDiMScorer, data: FitData, seed: int, device: torch.device) -> Iterator[dict[str, float]]:
        """See `Peer.train`."""
        scorer.gaussian.fit(torch.cat([scorer.embed(chunk) for chunk in _chunks(data.normal, device)]))
        yield {"step": 1, "loss": 0.0, **validate(scorer.eval(), data, device)}


class _PaDiMScorer(Scorer):
    chosen: Tensor

    def __init__(self, levels: Levels, image_size: int, channels: int):
        super().__init__(levels, image_size)
        from anomalib.models.components import MultiVariateGaussian
        from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

        available = sum(levels.backbone.channels)
        self.register_buffer("chosen", torch.randperm(available)[:channels])
        self.gaussian, self.to_map = MultiVariateGaussian(), AnomalyMapGenerator()

    def embed(self, features_b11n: Tensor) -> Tensor:
        """Positions of the finest level, (B, C, h, w)."""
        levels = self.split(features_b11n, self.size[0])
        grid = levels[0].shape[2], levels[0].shape[3]
        levels = [F.interpolate(level, size=grid, mode="nearest") for level in levels]
        return torch.cat(levels, dim=1)[:, self.chosen]

    def forward(self, features_b11n: Tensor) -> tuple[Tensor, Tensor]:
        """See `Scorer`."""
        maps = self.to_map(
            embedding=self.embed(features_b11n),
            mean=self.gaussian.mean,
            inv_covariance=self.gaussian.inv_covariance,
            image_size=self.size,
        )[:, 0]
        return maps, maps.amax(dim=(1, 2))


@dataclass(frozen=True)
class FastFlow(Peer):
    """FastFlow (arXiv 2111.07677) with anomalib's settings: 8 steps per level, 3x3 and 1x1 subnetworks in turn.

    It is trained until the validation objective has not improved for ``patience`` epochs and keeps the weights of the
    best; anomalib would watch the test set. The likelihood of held-out normal images would be no better guide: it goes
    on improving long after nothing is detected any better.
    """

    name: str = "anomalib-fastflow"
    strides: tuple[int, ...] = (4, 8, 16)
    epochs: int = 500
    patience: int = 20
    report_every: int = 5

    def build(self, levels: Levels, image_size: int) -> Scorer:
        """See `Peer.build`."""
        return _FastFlowScorer(levels, image_size)

    def train(
        self, scorer: _FastFlowScorer, data: FitData, seed: int, device: torch.device
    ) -> Iterator[dict[str, float]]:
        """See `Peer.train`."""
        optimizer = torch.optim.Adam(scorer.parameters(), lr=1e-3, weight_decay=1e-5)
        best, best_epoch, best_state = -np.inf, 0, scorer.state_dict()
        epoch = 0
        while epoch < self.epochs and epoch - best_epoch < self.patience:
            losses = []
            for _ in range(self.report_every):
                epoch += 1
                losses.append(
                    self._epoch(scorer.train(), optimizer, data, np.random.default_rng([seed, epoch]), device)
                )
            if not np.isfinite(losses).all():
                raise DivergenceError(f"{self.name} diverged before epoch {epoch + 1}.")
            point = {"step": epoch, "loss": losses[-1], **validate(scorer.eval(), data, device)}
            if point[VALIDATION] > best:
                best, best_epoch, best_state = point[VALIDATION], epoch, copy.deepcopy(scorer.state_dict())
            yield point
        scorer.load_state_dict(best_state)

    def _epoch(
        self,
        scorer: _FastFlowScorer,
        optimizer: torch.optim.Optimizer,
        data: FitData,
        rng: np.random.Generator,
        device: torch.device,
    ) -> float:
        order, total = rng.permutation(len(data.normal)), 0.0
        for batch in np.array_split(order, -(-len(order) // _BATCH)):
            optimizer.zero_grad()
            loss = scorer.loss(torch.from_numpy(data.normal[np.sort(batch)]).to(device).float())
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        return total / len(order)


class _FastFlowScorer(Scorer):
    def __init__(self, levels: Levels, image_size: int):
        super().__init__(levels, image_size)
        from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator
        from anomalib.models.image.fastflow.loss import FastflowLoss
        from anomalib.models.image.fastflow.torch_model import create_fast_flow_block

        backbone = levels.backbone
        shapes = [
            [channels, image_size // stride, image_size // stride]
            for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
        ]
        self.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in shapes)
        self.blocks = nn.ModuleList(
            create_fast_flow_block(shape, conv3x3_only=False, hidden_ratio=1.0, flow_steps=8) for shape in shapes
        )
        self.to_map, self.criterion = AnomalyMapGenerator(self.size), FastflowLoss()

    def latents(self, features_b11n: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Latents (B, C_i, h_i, w_i) and log-determinants (B,) of each level."""
        levels = self.split(features_b11n, self.size[0])
        outputs = [block(norm(level)) for block, norm, level in zip(self.blocks, self.norms, levels, strict=True)]
        return [z for z, _ in outputs], [logdet for _, logdet in outputs]

    def loss(self, features_b11n: Tensor) -> Tensor:
        """The negative log-likelihood of images, summed over levels."""
        return self.criterion(*self.latents(features_b11n))

    def forward(self, features_b11n: Tensor) -> tuple[Tensor, Tensor]:
        """See `Scorer`."""
        maps = self.to_map(self.latents(features_b11n)[0])[:, 0]
        return maps, maps.amax(dim=(1, 2))
