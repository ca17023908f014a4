"""Levels are brought to where the positions of the grid are by where their own look."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid
from clflow.features.registration import offsets, register
from clflow.features.weights import find_weights

POSITIONS = 24


def test_offset_is_where_a_position_looks():
    def levels(images: torch.Tensor) -> list[torch.Tensor]:
        """The first pixel of each position, the last one, and the mean of all, each beside a dead channel."""
        alive = [images[:, :, ::4, ::4], images[:, :, 7::8, 7::8], F.avg_pool2d(images, 16)]
        return [torch.cat([level, 0 * level[:, :1]], dim=1) for level in alive]

    found = offsets(levels, (4, 8, 16))
    assert found == pytest.approx((-1.5, 3.5, 0), abs=0.2)
    with torch.no_grad():
        assert offsets(levels, (4, 8, 16)) == found


@given(st.sampled_from([2, 4, 8, 16, 32]), st.sampled_from([4, 8, 16]), st.floats(-8, 8))
def test_registered_is_what_lies_at_the_middle_of_each_position(stride: int, grid: int, offset: float):
    looks_at = (torch.arange(POSITIONS) + 0.5) * stride + offset
    level = torch.stack([looks_at.expand(POSITIONS, -1), looks_at[:, None].expand(-1, POSITIONS)])[None]
    size = POSITIONS * stride // grid
    registered = register(level, stride, offset, grid, (size, size))[0]
    middles = (torch.arange(size) + 0.5) * grid
    inside = (middles >= looks_at[0] + grid) & (middles <= looks_at[-1] - grid)
    assert torch.allclose(registered[..., 0][:, inside], middles[inside], atol=1e-3)
    assert torch.allclose(registered[..., 1][inside], middles[inside][:, None], atol=1e-3)
    assert float(registered.min()) >= float(looks_at[0]) - 1e-3
    assert float(registered.max()) <= float(looks_at[-1]) + 1e-3


def test_every_level_sees_a_spot_where_it_is():
    grid = FeatureGrid(Backbone(find_weights("tf_efficientnet_lite0", "offline"), (4, 8, 16)), grid=8, pool=1)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(24, 3, 16, 16, generator=generator)
    pictures = F.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1)
    spots = torch.randint(48, 80, (len(pictures), 2), generator=generator)
    marked = pictures.clone()
    for picture, (y, x) in zip(marked, spots, strict=True):
        picture[:, y - 2 : y + 2, x - 2 : x + 2] = torch.rand(3, 1, 1, generator=generator)
    places = (torch.arange(16) + 0.5) * 8
    for change in (grid(marked) - grid(pictures)).square().split(grid.backbone.channels, dim=-1):
        energy = change.sum(-1)
        seen = torch.stack([energy.sum(2) @ places, energy.sum(1) @ places], dim=1) / energy.sum((1, 2))[:, None]
        assert abs(float((seen - spots).mean())) < 0.7  # 1.0 at stride 4 and 1.8 at stride 16 if nothing is registered
