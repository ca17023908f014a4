"""Features of an image: levels of the frozen backbone, on one grid or each on its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clflow.chunks import images_at_once, map_in_chunks
from clflow.features.backbone import Backbone
from clflow.features.registration import offsets_of, register


def scaled(images_bhwc: Tensor) -> Tensor:
    """RGB images (B, 3, H, W) in [0, 1] from uint8 (B, H, W, 3), as they are read."""
    return images_bhwc.permute(0, 3, 1, 2).to(torch.float32) / 255


class Features(nn.Module):
    """Frozen features of images, in the form that a method uses.

    Args:
        backbone: the frozen backbone, cut after the last stride that is used.
        grid: stride of the grid that surrogate annotations are counted on.
    """

    def __init__(self, backbone: Backbone, grid: int):
        super().__init__()
        self.backbone = backbone
        self.grid = grid

    @property
    def identity(self) -> tuple[object, ...]:
        """All that determines the features except the backbone's weights; serialisable as JSON."""
        return type(self).__name__, *self.backbone.strides, self.grid

    def of_images(self, images_bhwc: Tensor) -> Tensor:
        """Features of RGB images (B, S, S, 3) uint8, as they are read."""
        return map_in_chunks(lambda few: self(scaled(few)), images_bhwc, images_at_once(images_bhwc.shape[1]))


class FeatureGrid(Features):
    """Concatenated, locally averaged features of all levels on the grid of one of them.

    Every level is registered: brought to where the positions of the grid are by where its own look (`register`).

    Args:
        backbone: the frozen backbone.
        grid: stride of the level whose grid it is.
        pool: side of the averaging window in positions (the neighbourhood of PatchCore, arXiv 2106.08265, eq. 2).
    """

    def __init__(self, backbone: Backbone, grid: int, pool: int):
        super().__init__(backbone, grid)
        self.level = backbone.strides.index(grid)
        self.pool = pool
        self.channels = sum(backbone.channels)
        self.offsets = offsets_of(backbone)

    @property
    def identity(self) -> tuple[object, ...]:
        """See `Features.identity`."""
        return *super().identity, self.pool, "registered"  # detectors of before saw levels that were not

    @torch.no_grad()
    def forward(self, images_bchw: Tensor) -> Tensor:
        """Features (B, h, w, C), positions last but one, of RGB images in [0, 1]."""
        levels = [
            F.avg_pool2d(level, self.pool, stride=1, padding=self.pool // 2, count_include_pad=False)
            for level in self.backbone(images_bchw)
        ]
        shape = levels[self.level].shape[2], levels[self.level].shape[3]
        registered = [
            register(level, stride, offset, self.grid, shape)
            for level, stride, offset in zip(levels, self.backbone.strides, self.offsets, strict=True)
        ]
        return torch.cat(registered, dim=-1)


class Levels(Features):
    """The levels on their own grids, flattened and concatenated to one row per image."""

    @torch.no_grad()
    def forward(self, images_bchw: Tensor) -> Tensor:
        """Features (B, 1, 1, N) of square RGB images in [0, 1]; N counts all values of all levels."""
        return self.in_a_row(self.backbone(images_bchw))

    @staticmethod
    def in_a_row(levels_bchw: list[Tensor]) -> Tensor:
        """Features (B, 1, 1, N) of the levels (B, C_i, h_i, w_i)."""
        return torch.cat([level.flatten(1) for level in levels_bchw], dim=1)[:, None, None]

    def split(self, features_b11n: Tensor, image_size: int) -> list[Tensor]:
        """The levels (B, C_i, h_i, h_i), finest first, of what `forward` returned for images of that size."""
        shapes = [
            (channels, image_size // stride, image_size // stride)
            for channels, stride in zip(self.backbone.channels, self.backbone.strides, strict=True)
        ]
        parts = features_b11n.flatten(1).split([c * h * w for c, h, w in shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
