"""The feature cache: computed once, never stale, within its budget, whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clflow.errors import DataError
from clflow.features.cache import FeatureCache
from clflow.features.extraction import FeatureGrid

CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    return paths


def test_features_are_those_of_the_grid_and_computed_once(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    cache = FeatureCache(tmp_path / "cache", 1)
    first = cache.get(grid, "identity", images, 64, CPU)
    expected = grid.of_images(torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in images])))
    assert first.shape == (3, 8, 8, grid.channels)
    np.testing.assert_allclose(first, expected.numpy(), rtol=1e-3, atol=1e-3)
    for path in images:
        path.unlink()  # a second computation would need them
    assert np.array_equal(first, cache.get(grid, "identity", images, 64, CPU))


def test_another_identity_or_size_is_another_entry(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    cache = FeatureCache(tmp_path / "cache", 1)
    cache.get(grid, "one", images, 64, CPU)
    assert cache.get(grid, "one", images, 96, CPU).shape == (3, 12, 12, grid.channels)
    assert len(cache.get(grid, "two", images[:2], 64, CPU)) == 2


def test_least_recently_used_entry_makes_room(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    folder = tmp_path / "cache"
    size = FeatureCache(folder, 1).get(grid, "a", images, 64, CPU).nbytes
    cache = FeatureCache(folder, 2.5 * size / 1e9)
    cache.get(grid, "b", images, 64, CPU)
    for age, path in enumerate(sorted(folder.glob("*.npy"))):
        os.utime(path, (age, age))
    old, recent = sorted(folder.glob("*.npy"))
    cache.get(grid, "c", images, 64, CPU)
    assert not old.exists() and recent.exists()
    assert len(list(folder.glob("*.npy"))) == 2


def test_damaged_image_leaves_nothing_behind(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    images[2].write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"2\.png"):
        FeatureCache(tmp_path / "cache", 1).get(grid, "broken", images, 64, CPU)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
