"""Imports of heavy libraries."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_RARELY = 1000  # collections of the middle generation between two of the oldest; Python's own is 10


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import inside of this without that the garbage collector looks through all that was imported before, again and
    again. That takes a fifth of the time in which torch, Ray and MLflow are imported. Young objects are collected as
    ever."""
    young, middle, oldest = gc.get_threshold()
    gc.set_threshold(young, middle, max(oldest, _RARELY))
    try:
        yield
    finally:
        gc.set_threshold(young, middle, oldest)
