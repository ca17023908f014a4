"""The feature cache: computed once, never stale, within its budget, whole or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clflow.errors import DataError
from clflow.features.backbone import Backbone, weights_identity
from clflow.features.cache import FeatureCache
from clflow.features.extraction import FeatureGrid
from clflow.features.weights import Weights, find_weights
from clflow.files import TEMPORARY

_KILLED = """
import os, signal, sys
from pathlib import Path
from filelock import FileLock
from clflow.files import write_atomically
path = Path(sys.argv[1])
with FileLock(path.with_suffix(".lock")), write_atomically(path) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""

_HOLDER = """
import sys
from pathlib import Path
from filelock import FileLock
with FileLock(Path(sys.argv[1]).with_suffix(".lock")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    return paths


def cache_in(folder: Path, grid: FeatureGrid, budget_gb: float = 1, weights: str = "weights") -> FeatureCache:
    return FeatureCache(folder, budget_gb, grid, weights, torch.device("cpu"))


def arrays(folder: Path) -> list[Path]:
    """In the order in which they were used last."""
    return sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime_ns)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process holds the lock of an array."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.stdin.close()


def test_features_are_those_of_the_grid_and_computed_once(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    cache = cache_in(tmp_path / "cache", grid)
    first = cache.get("content", images, 64)
    expected = grid.of_images(torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in images])))
    assert first.shape == (3, 8, 8, grid.channels)
    np.testing.assert_allclose(first, expected.numpy(), rtol=1e-3, atol=1e-3)
    for path in images:
        path.unlink()  # a second computation would need them
    assert np.array_equal(first, cache.get("content", images, 64))


def test_other_content_size_features_or_weights_are_another_entry(
    grid: FeatureGrid, images: list[Path], tmp_path: Path
):
    cache = cache_in(tmp_path / "cache", grid)
    cache.get("one", images, 64)
    assert cache.get("one", images, 96).shape == (3, 12, 12, grid.channels)
    assert len(cache.get("two", images[:2], 64)) == 2
    assert len(cache_in(tmp_path / "cache", grid, weights="others").get("one", images[:2], 64)) == 2
    pooled = FeatureGrid(grid.backbone, grid.grid, pool=3)
    assert len(cache_in(tmp_path / "cache", pooled).get("one", images[:2], 64)) == 2
    assert len(cache.get("one", images[:2], 64)) == 3


def test_same_weights_in_another_network_are_another_entry(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    """Without ``tf_``, timm pads otherwise."""
    weights = find_weights("tf_efficientnet_lite0", "offline")
    other = FeatureGrid(
        Backbone(Weights("efficientnet_lite0", weights.file), grid.backbone.strides), grid.grid, grid.pool
    )
    identity = weights_identity(weights)
    first, second = (cache_in(tmp_path, seen, weights=identity).get("one", images, 64) for seen in (grid, other))
    assert not np.allclose(first, second)


def test_least_recently_used_entry_makes_room(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    folder = tmp_path / "cache"
    size = cache_in(folder, grid).get("a", images, 64).nbytes
    cache = cache_in(folder, grid, 2.5 * size / 1e9)
    cache.get("b", images, 64)
    for age, path in enumerate(sorted(folder.glob("*.npy"))):
        os.utime(path, (age, age))
    old, recent = sorted(folder.glob("*.npy"))
    cache.get("c", images, 64)
    assert not old.exists() and recent.exists()
    assert len(list(folder.glob("*.npy"))) == 2


def test_array_whose_lock_is_held_is_not_evicted(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    folder = tmp_path / "cache"
    size = cache_in(folder, grid).get("a", images, 64).nbytes
    (first,) = arrays(folder)
    cache = cache_in(folder, grid, 1.5 * size / 1e9)
    with held(first):
        cache.get("b", images, 64)
        assert first.exists()
    cache.get("c", images, 64)
    assert not first.exists() and len(arrays(folder)) == 1


def test_mapped_array_survives_its_eviction(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    expected = np.array(cache_in(tmp_path / "elsewhere", grid).get("a", images, 64))
    cache = cache_in(tmp_path / "cache", grid, 1.5 * expected.nbytes / 1e9)
    mapped = cache.get("a", images, 64)
    (path,) = arrays(tmp_path / "cache")
    cache.get("b", images, 64)
    assert not path.exists()
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, expected)


def test_half_written_files_of_killed_processes_are_swept(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    folder = tmp_path / "cache"
    cache = cache_in(folder, grid)
    for name in ("live", "dead"):
        killed = subprocess.run([sys.executable, "-c", _KILLED, str(folder / f"{name}.npy")], check=False)
        assert killed.returncode == -signal.SIGKILL
    halves = sorted(folder.glob(f"{TEMPORARY}*"))
    assert len(halves) == 2
    with held(folder / "live.npy"):  # another process is writing it
        cache.get("a", images, 64)
        assert [path.name.split("-")[1] for path in folder.glob(f"{TEMPORARY}*")] == ["live.npy"]
    cache.get("b", images, 64)
    assert not list(folder.glob(f"{TEMPORARY}*"))
    assert len(arrays(folder)) == 2


def test_damaged_image_leaves_nothing_behind(grid: FeatureGrid, images: list[Path], tmp_path: Path):
    images[2].write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"2\.png"):
        cache_in(tmp_path / "cache", grid).get("broken", images, 64)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
