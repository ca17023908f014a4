"""Methods by name. Each trains on the same data behind one protocol and gives a detector that scores images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from clflow.config.params import TUNED, base_method
from clflow.errors import ParameterError

if TYPE_CHECKING:
    from clflow.methods.protocol import Method

METHODS = {
    "clflow": "clflow.methods.flow:CLFLOW",
    "fastflow": "clflow.methods.flow:FASTFLOW",
    "anomalib-patchcore": "clflow.methods.patchcore:PATCHCORE",
    "anomalib-patchcore-1": "clflow.methods.patchcore:PATCHCORE_1",
    "anomalib-padim": "clflow.methods.padim:PADIM",
    "anomalib-fastflow": "clflow.methods.fastflow:FASTFLOW",
}
"""Module and object of each method. They are imported when they are asked for, so that no method's code depends on
another's."""


def find_method(name: str) -> Method:
    """The method of that name; with tuned parameters, or as a variant, it is the same method.

    Raises:
        ParameterError: there is none.
    """
    module, _, entry = _place(name).partition(":")
    return getattr(import_module(module), entry)


def method_module(name: str) -> str:
    """The module that defines a method, without importing it.

    Raises:
        ParameterError: there is none.
    """
    return _place(name).partition(":")[0]


def _place(name: str) -> str:
    place = METHODS.get(base_method(name))
    if place is None:
        known = ", ".join(METHODS)
        raise ParameterError(f"there is no method {name!r}; known are {known}, each also with {TUNED} at its end.")
    return place
