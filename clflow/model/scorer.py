"""Scores of positions and images under flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clflow.chunks import POSITIONS_AT_ONCE, map_in_chunks
from clflow.model.flow import Flow, Flows
from clflow.model.whitening import GlobalWhitening, LayoutWhitening

if TYPE_CHECKING:
    from clflow.config.schema import Model

_T_DOF = 8.0  # degrees of freedom of the t distribution that positions are scored by
_LOCAL_SIGMA = 0.125  # standard deviation of the local mean, of the map's side
_LOCAL_WEIGHT = 0.75  # share of the local mean that an image score leaves out
_NORMAL_WINDOW = 5  # side in positions of the window that the normal level is averaged over


class FlowScorer(nn.Module):
    """Score map: negative log-likelihood of each position under flows. Image score: where the map stands out most.

    Args:
        whitening: of all positions alike.
        layout: whitening of each position on top; None where the flows are to see no layout.
        flows: of white features.
        grid: h, w of the score map.
        top_fraction: share of the positions that an image score is the mean of, see `pool_scores`.
    """

    normal_level: Tensor

    def __init__(
        self,
        whitening: GlobalWhitening,
        layout: LayoutWhitening | None,
        flows: Flows,
        grid: tuple[int, int],
        top_fraction: float,
    ):
        super().__init__()
        self.whitening, self.layout, self.flows, self.top_fraction = whitening, layout, flows, top_fraction
        self.register_buffer("normal_level", torch.zeros(grid))

    def subtract_normal_level(self, maps_nhw: Tensor) -> None:
        """Subtract the mean of normal images' score maps, smoothed, from all maps from now on.

        Some positions score higher in every image. An image score keeps that: it compares images, not positions.
        """
        mean = maps_nhw.mean(dim=0)[None, None]
        padding = _NORMAL_WINDOW // 2
        self.normal_level.copy_(F.avg_pool2d(mean, _NORMAL_WINDOW, 1, padding, count_include_pad=False)[0, 0])

    def with_flows(self, flows: Flows) -> FlowScorer:
        """The same scorer of other flows; all else is shared."""
        other = FlowScorer(self.whitening, self.layout, flows, (0, 0), self.top_fraction)
        other.normal_level = self.normal_level
        return other

    def forward(self, features_bhwc: Tensor) -> tuple[Tensor, Tensor]:
        """Score maps (B, h, w), less the normal level, and image scores (B,) of feature grids (B, h, w, C)."""
        white_bhwk, logdet_hw = self.whitening(features_bhwc), 0.0
        if self.layout is not None:
            white_bhwk, logdet_hw = self.layout(white_bhwk), self.layout.logdet
        maps_bhw, scores_b = self.score_white(white_bhwk, logdet_hw)
        return maps_bhw - self.normal_level, scores_b

    def score_white(self, white_bhwk: Tensor, logdet: Tensor | float) -> tuple[Tensor, Tensor]:
        """Score maps (B, h, w) and image scores (B,), see `pool_scores`, of white features (B, h, w, K).

        The maps are those before the normal level is subtracted. ``logdet`` (h, w), or (B, h, w), is that of whitening.
        """
        maps_bhw = score_maps(self.flows, white_bhwk) - logdet / white_bhwk.shape[-1]
        return maps_bhw, pool_scores(maps_bhw, self.top_fraction)


def build_scorer(model: Model, channels: int, grid: tuple[int, int], layout: bool, seed: int) -> FlowScorer:
    """An untrained scorer as the parameters describe it.

    Args:
        model: the parameters.
        channels: C, features per position.
        grid: h, w of the feature grid.
        layout: whiten each position by its own statistics.
        seed: of the flows, which are all different, also from those of every other seed.
    """
    kept = min(channels, model.kept_axes)
    seeds = range(seed * model.flows, (seed + 1) * model.flows)
    flows = [Flow(kept, model.coupling_steps, model.hidden_ratio, model.coupling, each) for each in seeds]
    return FlowScorer(
        GlobalWhitening(channels, kept),
        LayoutWhitening(*grid, kept, model.layout_shrinkage) if layout else None,
        Flows(flows),
        grid,
        model.top_fraction,
    )


def anomaly_score(z_nc: Tensor, logdet_n: Tensor) -> Tensor:
    """Anomaly score (N,): negative log-likelihood under Student's t, in nats per dimension, up to a constant.

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


def pool_scores(maps_bhw: Tensor, top_fraction: float) -> Tensor:
    """Image scores (B,): mean of the positions that stand out most from their surroundings.

    A change of light or place raises the scores of a whole normal image; a defect stands out. So a position counts by
    its score less three quarters of the local Gaussian mean. The last quarter tells a whole image that is wrong.

    Args:
        maps_bhw: score maps (B, h, w).
        top_fraction: share of the positions that count, at least one.
    """
    rows, columns = (_gaussian_mean(size, maps_bhw) for size in maps_bhw.shape[1:])
    contrast = (maps_bhw - _LOCAL_WEIGHT * (rows @ maps_bhw @ columns.T)).flatten(1)
    return contrast.topk(max(1, round(contrast.shape[1] * top_fraction)), dim=1).values.mean(dim=1)


def _gaussian_mean(size: int, like: Tensor) -> Tensor:
    """(size, size): its product with a vector is the Gaussian mean about each element, over the elements there are."""
    places = torch.arange(size, dtype=like.dtype, device=like.device)
    distances = (places[:, None] - places) / (_LOCAL_SIGMA * size)
    return (-0.5 * distances.square()).softmax(dim=1)
