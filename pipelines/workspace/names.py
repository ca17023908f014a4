"""Names in parameters that stand for something in the code: methods, layouts, and categories of known datasets."""

from __future__ import annotations

from clflow.config.params import Params, base_method
from clflow.data.catalogue import check_categories, find
from clflow.methods.registry import METHODS


def require_known(params: Params) -> None:
    """Make sure that every name stands for something, before hours are spent on the others.

    Raises:
        ParameterError: a method, a layout or a category is unknown; the sentence names the nearest one.
    """
    for method in (*params.benchmark.methods, params.tune.method, params.promotion.method):
        require_method(method)
    for name, dataset in params.data.items():
        check_categories(name, find(name, dataset.layout), dataset.categories)


def require_method(name: str) -> None:
    """Make sure that there is a method of that name.

    Raises:
        ParameterError: there is none; the sentence names the nearest one.
    """
    METHODS.require(base_method(name))
