"""FastFlow (arXiv 2111.07677) through anomalib."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from clflow.errors import DivergenceError
from clflow.methods.peer import BATCH, Peer, Scorer
from clflow.training.validation import VALIDATION, validate

if TYPE_CHECKING:
    from clflow.features.extraction import Levels
    from clflow.training.data import FitData


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
        for batch in np.array_split(order, -(-len(order) // BATCH)):
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


FASTFLOW = FastFlow()
