"""Sizes of the parts of a batch that a CPU computes at once.

Larger activations leave its caches, and glibc maps each block above 32 MB anew, page by page.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

POSITIONS_AT_ONCE = 4096  # of feature grids

_PIXELS = 4 * 256 * 256


def images_at_once(size: int) -> int:
    """Number of images of ``size`` by ``size`` pixels that a CPU computes at once."""
    return max(1, _PIXELS // size**2)


def map_in_chunks(work: Callable[[Tensor], Tensor], batch: Tensor, count: int) -> Tensor:
    """``work(batch)``, on a CPU ``count`` rows at a time. Other devices, and graphs, get the batch whole."""
    if batch.device.type != "cpu" or torch.compiler.is_compiling():
        return work(batch)
    return torch.cat([work(few) for few in batch.split(count)])
