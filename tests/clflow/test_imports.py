"""Imports are quick, and the garbage collector is as it was after them."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator

import pytest

from clflow.imports import quick_imports


@pytest.fixture(autouse=True)
def as_python_has_it() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_old_objects_are_looked_through_rarely_and_young_ones_as_ever():
    with quick_imports():
        young, middle, oldest = gc.get_threshold()
    assert (young, middle) == (700, 10) and oldest >= 1000
    assert gc.get_threshold() == (700, 10, 10)


def test_an_import_that_fails_leaves_the_collector_as_it_was():
    with pytest.raises(ModuleNotFoundError), quick_imports():
        importlib.import_module("clflow.nothing")
    assert gc.get_threshold() == (700, 10, 10)
