"""Scoring images with a trained detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clflow.data.images import read_image
from clflow.prefetch import prefetch


def image_batches(paths: Sequence[Path], size: int, batch: int) -> Iterator[Tensor]:
    """Images as uint8 (B, size, size, 3) in the order of the paths.

    As many threads as torch may use decode the next batch while one is worked on.

    Raises:
        DataError: an image is missing or damaged.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as readers:
        images = prefetch(readers, lambda path: read_image(path, size), paths, batch)
        while rows := list(islice(images, batch)):
            yield torch.from_numpy(np.stack(rows))


def upsample(maps: np.ndarray, size: int) -> np.ndarray:
    """Score maps (N, h, w) at pixel resolution: float32 (N, size, size), bilinear."""
    return upsample_maps(torch.from_numpy(np.asarray(maps, dtype=np.float32)), size).numpy()


def upsample_maps(maps_bhw: Tensor, size: int) -> Tensor:
    """Tensors (B, h, w) of any type and device at pixel resolution; see `upsample`."""
    return F.interpolate(maps_bhw[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
