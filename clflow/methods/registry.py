"""Methods by name. Each trains on the same data behind one protocol and gives a detector that scores images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clflow import plugins
from clflow.config.params import base_method
from clflow.plugins import Registry

if TYPE_CHECKING:
    from clflow.methods.protocol import Method

METHODS: Registry[Method] = Registry(
    plugins.METHODS,
    "clflow.methods.protocol:Method",
    {
        "clflow": "clflow.methods.flow:CLFLOW",
        "fastflow": "clflow.methods.flow:FASTFLOW",
        "anomalib-patchcore": "clflow.methods.patchcore:PATCHCORE",
        "anomalib-patchcore-1": "clflow.methods.patchcore:PATCHCORE_1",
        "anomalib-padim": "clflow.methods.padim:PADIM",
        "anomalib-fastflow": "clflow.methods.fastflow:FASTFLOW",
    },
)
"""They are imported when they are asked for, so that no method's code depends on another's."""


def find_method(name: str) -> Method:
    """The method of that name; with tuned parameters, or as a variant, it is the same method.

    Raises:
        ParameterError: there is none, or a plug-in fails.
    """
    return METHODS.find(base_method(name))


def method_module(name: str) -> str:
    """The module that defines a method, without importing it.

    Raises:
        ParameterError: there is none.
    """
    return METHODS.module(base_method(name))
