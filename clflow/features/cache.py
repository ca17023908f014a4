"""The feature cache: what the frozen backbone says of a list of images, computed once and shared by all cells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from clflow.features.extraction import Features
from clflow.files import TEMPORARY, fingerprint, write_atomically
from clflow.score import image_batches

_BATCH = 16


class FeatureCache:
    """Float16 features on disk, memory-mapped, so that processes of one machine share one copy.

    Args:
        folder: where the arrays lie; may be shared between workspaces, since names are hashes of content.
        budget_gb: the least recently used arrays are removed when the folder holds more than this.
    """

    def __init__(self, folder: Path, budget_gb: float):
        self.folder = folder
        self.budget = int(budget_gb * 1e9)
        folder.mkdir(parents=True, exist_ok=True)

    def get(
        self, features: Features, identity: object, paths: Sequence[Path], size: int, device: torch.device
    ) -> np.ndarray:
        """Features float16, one row per image, of images read as squares of ``size`` pixels.

        Args:
            features: what a method sees of an image, on ``device``.
            identity: JSON-able; all that determines the result: weights, grid, and the content of the images.
            paths: the images; they must match ``identity``.
        """
        path = self.folder / f"{fingerprint([identity, size])}.npy"
        with FileLock(path.with_suffix(".lock")):  # a second cell of the category waits instead of computing twice
            if not path.exists():
                self._compute(path, features, paths, size, device)
                self._evict(keep=path)
        os.utime(path)
        return np.load(path, mmap_mode="c")  # not "r": torch warns of arrays that it could not write to

    def _compute(self, path: Path, features: Features, paths: Sequence[Path], size: int, device: torch.device) -> None:
        with write_atomically(path) as temporary:
            out: np.memmap | None = None
            start = 0
            for images_bhwc in image_batches(paths, size, _BATCH):
                grid = features.of_images(images_bhwc.to(device)).to(torch.float16).cpu().numpy()
                if out is None:
                    shape = (len(paths), *grid.shape[1:])
                    out = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
                out[start : start + len(grid)] = grid
                start += len(grid)
            assert out is not None, "a category without images cannot reach the cache"
            out.flush()

    def _evict(self, keep: Path) -> None:
        files = [file for file in self.folder.glob("*.npy") if not file.name.startswith(TEMPORARY)]
        files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
        files.sort(key=lambda file: file != keep)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > self.budget and file != keep:
                file.unlink(missing_ok=True)
