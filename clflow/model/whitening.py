"""Whitening of features, in closed form from normal ones: first by one Gaussian, then position by position.

A flow that is shared by all positions sees no layout: what is normal at one place of a part is a defect at another. The
second step gives every position a Gaussian of its own, as PaDiM does (arXiv 2011.08785), so that the flow learns what
is left. Shrinkage towards the neighbours and towards the Gaussian of all positions makes a hundred images enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

_SHRINKAGE = 0.1  # added to every variance of the standardised features before they are whitened
_OWN_SHARE = 0.5  # of a position's own covariance beside the mean of its neighbours'
# Fewer images than axes raise the shrinkage by this power of their ratio. For 40 and 80 images of three of the four
# development sets, this is about the shrinkage under which held-out normal images are most likely.
_FEW_IMAGES = 1.5
_WINDOW = 3  # side in positions of the neighbourhood, the position included

Chunks = Callable[[], Iterator[Tensor]]
"""Gives feature grids (B, h, w, C), a few images at a time, anew at every call."""


class GlobalWhitening(nn.Module):
    """Whitens features (N, C) by the mean and the covariance of all positions, and keeps the axes that vary most.

    Args:
        channels: C, features per position.
        kept: K, how many axes are kept.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, channels: int, kept: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.eye(channels, kept))

    def fit(self, mean_c: Tensor, covariance_cc: Tensor) -> None:
        """Set by mean (C,) and covariance (C, C) of normal features, in double precision.

        Channels are standardised first, so that the shrinkage of the covariance weighs all of them alike.
        """
        std = covariance_cc.diagonal().sqrt()
        # A channel that hardly ever changes in normal images must not outweigh all others as soon as it does.
        std = std.clamp(min=0.1 * std.median())
        variance, axes = torch.linalg.eigh(covariance_cc / std[:, None] / std)
        variance = variance.clamp(min=0) + _SHRINKAGE
        whitening = axes / variance.sqrt() / std[:, None]
        self.mean.copy_(mean_c)
        self.matrix.copy_(whitening[:, -self.matrix.shape[1] :])  # variances ascend

    def forward(self, x_nc: Tensor) -> Tensor:
        """White features (N, K); any number of leading axes."""
        return (x_nc - self.mean) @ self.matrix


class LayoutWhitening(nn.Module):
    """Whitens each position p of a grid by its own mean m_p and covariance S_p = L_p L_p^T: z_p = L_p^-1 (g_p - m_p).

    The inverse of L_p is triangular; the zeros of its upper right quarter are neither kept nor multiplied. It is
    rounded to half precision, at which it is stored.

    Args:
        h, w: of the grid.
        channels: K, white features per position.
        shrinkage: share of the identity, which is the covariance of all positions, in S_p, with K images or more.
    """

    mean: Tensor
    top: Tensor
    bottom: Tensor
    logdet: Tensor

    def __init__(self, h: int, w: int, channels: int, shrinkage: float):
        super().__init__()
        self.shrinkage = shrinkage
        half = channels // 2
        self.register_buffer("mean", torch.zeros(h, w, channels))
        self.register_buffer("top", torch.zeros(h * w, half, half))
        self.register_buffer("bottom", torch.zeros(h * w, channels - half, channels))
        self.register_buffer("logdet", torch.zeros(h, w))
        self.register_state_dict_post_hook(_store_in_half_precision)

    def fit(self, chunks: Chunks, images: int) -> None:
        """Set by globally whitened features of normal images.

        With D_p the covariance about m_p, and both m_p and D_q averaged over the window N(p):
        S_p = (1 - s) (D_p / 2 + mean of D_q / 2) + s I, where s = min(1, shrinkage max(1, K / images)^1.5).

        Args:
            chunks: their features.
            images: how many there are in all. Folds of them are shrunk as all are, so that they are whitened alike.
        """
        mean_hwk = _window_mean(_mean(chunks()))
        own = _covariance(chunks(), mean_hwk)
        covariance = _OWN_SHARE * own + (1 - _OWN_SHARE) * _window_mean(own)
        shrinkage = min(1.0, self.shrinkage * max(1.0, covariance.shape[-1] / images) ** _FEW_IMAGES)
        covariance = ((1 - shrinkage) * covariance).flatten(0, 1)
        covariance.diagonal(dim1=1, dim2=2).add_(shrinkage)
        factor = torch.linalg.cholesky(covariance)
        identity = torch.eye(factor.shape[-1], device=factor.device).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False).half().float()
        half = self.top.shape[1]
        self.mean.copy_(mean_hwk)
        self.top.copy_(inverse[:, :half, :half])
        self.bottom.copy_(inverse[:, half:])
        self.logdet.copy_(inverse.diagonal(dim1=1, dim2=2).log().sum(dim=1).view_as(self.logdet))

    def forward(self, g_bhwk: Tensor) -> Tensor:
        """Features (B, h, w, K), white at each position; the log-determinant of a position is in ``logdet`` (h, w)."""
        centred_pbk = (g_bhwk - self.mean).flatten(1, 2).transpose(0, 1)
        half = self.top.shape[1]
        top = centred_pbk[..., :half] @ self.top.transpose(1, 2)
        bottom = centred_pbk @ self.bottom.transpose(1, 2)
        return torch.cat([top, bottom], dim=-1).transpose(0, 1).reshape(g_bhwk.shape)


def _store_in_half_precision(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    for name in ("top", "bottom"):
        state[prefix + name] = state[prefix + name].half()


def _mean(chunks: Iterable[Tensor]) -> Tensor:
    """Mean (h, w, K) over images."""
    total, count = torch.zeros(()), 0
    for chunk in chunks:
        total, count = total.to(chunk.device) + chunk.sum(dim=0), count + len(chunk)
    return total / count


def _covariance(chunks: Iterable[Tensor], mean_hwk: Tensor) -> Tensor:
    """Covariance (h, w, K, K) of each position over images, about a given mean."""
    h, w, k = mean_hwk.shape
    total, count = torch.zeros(h * w, k, k, device=mean_hwk.device), 0
    for chunk in chunks:
        rows_pbk = (chunk - mean_hwk).flatten(1, 2).transpose(0, 1).contiguous()
        total.baddbmm_(rows_pbk.transpose(1, 2), rows_pbk)
        count += len(chunk)
    return (total / count).reshape(h, w, k, k)


def _window_mean(values: Tensor) -> Tensor:
    """Mean of (h, w, ...) over the window about each position; at the border over the part that exists."""
    rows, columns = (_window(size, values) for size in values.shape[:2])
    over_rows = (rows @ values.flatten(1)).view(*values.shape[:2], -1)
    return (columns @ over_rows).view(values.shape)


def _window(size: int, like: Tensor) -> Tensor:
    """(size, size): what each position along an axis takes from each other, of the window about it."""
    at = torch.arange(size, device=like.device)
    inside = ((at[:, None] - at).abs() <= _WINDOW // 2).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)
