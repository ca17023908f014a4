"""The feature cache: features of a list of images, computed once and shared by all cells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from clflow.features.extraction import Features
from clflow.features.weights import backbone_modules
from clflow.files import TEMPORARY, fingerprint, write_atomically
from clflow.provenance import code_of
from clflow.score import image_batches

_BATCH = 16


class FeatureCache:
    """Float16 features on disk, memory-mapped, so that processes of one machine share one copy.

    Args:
        folder: where the arrays lie; may be shared between workspaces, since names are hashes of content.
        budget_gb: the least recently used arrays are removed when the folder holds more than this.
        features: of a method, on ``device``.
        weights: content hash of the backbone's weights.
        device: where features are computed.
    """

    def __init__(self, folder: Path, budget_gb: float, features: Features, weights: str, device: torch.device):
        self.folder, self.budget = folder, int(budget_gb * 1e9)
        self.features, self.device = features, device
        backbone = features.backbone.name  # the same weights may fit several
        code = code_of(__name__, type(features).__module__, *backbone_modules(backbone))
        self._identity = [backbone, weights, *features.identity, code.files, code.libraries]
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, content: object, paths: Sequence[Path], size: int) -> np.ndarray:
        """Features float16, one row per image, of images read as squares of ``size`` pixels.

        Args:
            content: JSON-able; names the content of the images.
            paths: the images; they must match ``content``.
            size: in pixels.

        Raises:
            DataError: an image is missing or damaged.
        """
        path = self.folder / f"{fingerprint([self._identity, content, size])}.npy"
        with _lock(path):  # a second cell of the category waits instead of computing twice
            if not path.exists():
                self._sweep()
                self._compute(path, paths, size)
                self._evict(keep=path)
            os.utime(path)
            # Mapped while it is locked, so it is not evicted before; what is mapped outlives its name.
            return np.load(path, mmap_mode="c")  # not "r": torch warns of arrays that it could not write to

    def _compute(self, path: Path, paths: Sequence[Path], size: int) -> None:
        with write_atomically(path) as temporary:
            out: np.memmap | None = None
            start = 0
            for images_bhwc in image_batches(paths, size, _BATCH):
                grid = self.features.of_images(images_bhwc.to(self.device)).to(torch.float16).cpu().numpy()
                if out is None:
                    shape = (len(paths), *grid.shape[1:])
                    out = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
                out[start : start + len(grid)] = grid
                start += len(grid)
            assert out is not None, "a category without images cannot reach the cache"
            out.flush()

    def _sweep(self) -> None:
        """Remove what killed processes left half-written: nobody holds its lock."""
        for temporary in self.folder.glob(f"{TEMPORARY}*.npy-*"):
            _remove(temporary, self.folder / temporary.name.removeprefix(TEMPORARY).rpartition("-")[0])

    def _evict(self, keep: Path) -> None:
        files = [file for file in self.folder.glob("*.npy") if not file.name.startswith(TEMPORARY)]
        files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
        files.sort(key=lambda file: file != keep)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > self.budget and file != keep:
                _remove(file, file)


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".lock"))


def _remove(file: Path, guarded: Path) -> None:
    """Remove a file, unless another process holds the lock of what it guards."""
    try:
        with _lock(guarded).acquire(timeout=0):
            file.unlink(missing_ok=True)
    except Timeout:
        pass
