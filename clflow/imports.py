"""Imports of heavy libraries."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_RARELY = 1000  # collections of the middle generation before one of the oldest; Python's own is 10


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import inside of this: full garbage collections are rare in it. Each looks through all that was imported before,
    which makes a fifth of the time that torch, Ray and MLflow take. Young objects are collected as ever."""
    young, middle, oldest = gc.get_threshold()
    gc.set_threshold(young, middle, max(oldest, _RARELY))
    try:
        yield
    finally:
        gc.set_threshold(young, middle, oldest)
