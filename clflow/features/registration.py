"""Registration of feature levels: offsets of their receptive fields, and resampling onto one grid.

Position i of a level of stride s stands for the pixels from s i to s (i + 1), but the middle of what it looks at is
elsewhere: a convolution of stride 2 that pads one side only, or both alike at an even size, looks half a pixel beside
the middle, the next one twice as far, and what pretrained kernels have learned is not symmetric either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from clflow.features.backbone import Backbone

_IMAGES, _SIDE = 8, 128  # pixels; more tell a coarse level's offset no better than by half a pixel
_DEAD = 1e-6  # a channel that varies less says nothing

_known: dict[tuple[str, str, tuple[int, ...]], tuple[float, ...]] = {}


def offsets_of(backbone: Backbone) -> tuple[float, ...]:
    """The `offsets` of a backbone's levels; measured once in a process for the same model and weights."""
    model = backbone.name, backbone.digest(), backbone.strides  # models of the same weights may pad otherwise
    if model not in _known:
        _known[model] = offsets(backbone, backbone.strides)
    return _known[model]


@torch.enable_grad()  # wherever a detector is loaded
def offsets(levels: Callable[[Tensor], list[Tensor]], strides: Sequence[int]) -> tuple[float, ...]:
    """Offset of each level's receptive field from the middle of its position, right and down, in pixels.

    The middle of a receptive field is the centroid of the squared gradients of a central position's features with
    respect to noise images (the effective receptive field, arXiv 1701.04128), so it depends on the pretrained model
    alone. Mean of both axes.

    Args:
        levels: RGB images (B, 3, H, W) in [0, 1] to levels (B, C_i, H / stride_i, W / stride_i).
        strides: of the levels.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(_IMAGES, 3, _SIDE, _SIDE, generator=generator, requires_grad=True)
    places = torch.arange(_SIDE) + 0.5
    found = []
    for level, stride in zip(levels(images), strides, strict=True):
        place = level.shape[-1] // 2
        scale = level.detach().std((0, 2, 3)).clamp(min=_DEAD)  # so that no channel outweighs the others
        weights = torch.randn(level.shape[:2], generator=generator) / scale
        (gradient,) = torch.autograd.grad((level[:, :, place, place] * weights).sum(), images, retain_graph=True)
        energy = gradient.square().sum((0, 1))
        looks_at = ((energy.sum(0) + energy.sum(1)) @ places / (2 * energy.sum())).item()
        found.append(round(looks_at - (place + 0.5) * stride, 1))
    return tuple(found)


def register(level_bchw: Tensor, stride: int, offset: float, grid: int, shape: tuple[int, int]) -> Tensor:
    """A level on a grid, (B, h, w, C): what it is at the middle of each position of the grid.

    Coarser levels are interpolated bilinearly, finer ones averaged by a triangle of a position's width to either side.

    Args:
        level_bchw: a level, whose positions look ``offset`` pixels beside the middle of theirs.
        stride: of the level.
        grid: stride of the grid.
        shape: h, w of the grid.
    """
    b, c, height, width = level_bchw.shape
    rows, columns = (
        _weights(positions, stride, offset, grid, size, level_bchw)
        for positions, size in zip((height, width), shape, strict=True)
    )
    level_bhwc = level_bchw.permute(0, 2, 3, 1)
    level_bhwc = (rows @ level_bhwc.reshape(b, height, width * c)).reshape(b * shape[0], width, c)
    return (columns @ level_bhwc).reshape(b, *shape, c)


def _weights(positions: int, stride: int, offset: float, grid: int, size: int, like: Tensor) -> Tensor:
    """(size, positions): what each position of the grid takes from each position of a level, along one axis."""
    looks_at = (torch.arange(positions, device=like.device) + 0.5) * stride + offset
    middles = (torch.arange(size, device=like.device) + 0.5) * grid
    middles = middles.clamp(looks_at[0], looks_at[-1])  # beyond what a level looks at, its nearest position counts
    weights = (1 - (middles[:, None] - looks_at).abs() / max(stride, grid)).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).to(like.dtype)
