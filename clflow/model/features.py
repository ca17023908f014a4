"""The feature grid: several backbone levels, pooled over their neighbourhood, on one grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clflow.model.backbone import Backbone


class FeatureGrid(nn.Module):
    """Concatenated, locally averaged features of all levels on the grid of one of them.

    Finer levels are averaged over each position of the grid, coarser ones interpolated.

    Args:
        backbone: the frozen backbone.
        grid: stride of the level whose grid it is.
        pool: side of the averaging window in positions (the neighbourhood of PatchCore, arXiv 2106.08265, eq. 2).
    """

    def __init__(self, backbone: Backbone, grid: int, pool: int):
        super().__init__()
        self.backbone = backbone
        self.level = backbone.strides.index(grid)
        self.pool = pool
        self.channels = sum(backbone.channels)

    @torch.no_grad()
    def forward(self, images_bchw: Tensor) -> Tensor:
        """Features (B, h, w, C), positions last but one, of RGB images in [0, 1]."""
        levels = [
            F.avg_pool2d(level, self.pool, stride=1, padding=self.pool // 2, count_include_pad=False)
            for level in self.backbone(images_bchw)
        ]
        grid = levels[self.level].shape[2], levels[self.level].shape[3]
        levels = [F.adaptive_avg_pool2d(level, grid) for level in levels[: self.level + 1]] + [
            F.interpolate(level, size=grid, mode="bilinear", align_corners=False) for level in levels[self.level + 1 :]
        ]
        return torch.cat(levels, dim=1).permute(0, 2, 3, 1)

    def of_images(self, images_bhwc: Tensor) -> Tensor:
        """Features (B, h, w, C) of RGB images (B, H, W, 3) uint8, as they are read."""
        return self(images_bhwc.permute(0, 3, 1, 2).to(torch.float32) / 255)
