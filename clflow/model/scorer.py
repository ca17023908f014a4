"""Scores of positions and images under flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clflow.chunks import POSITIONS_AT_ONCE, map_in_chunks
from clflow.model.flow import Flow, Flows

if TYPE_CHECKING:
    from clflow.config.schema import Model

_T_DOF = 8.0  # degrees of freedom of the t distribution that positions are scored by
_LOCAL_SIGMA = 0.125  # standard deviation of the local mean, of the map's side
_LOCAL_WEIGHT = 0.25  # share of the local mean that is subtracted


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
