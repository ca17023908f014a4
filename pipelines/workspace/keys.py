"""The inputs that determine a result, and its key: their hash.

Device and arithmetic are not part of a key, for a cell may move between machines; they are recorded beside the result.
"""

from __future__ import annotations

from typing import Any

from clflow.config.params import Params, base_method
from clflow.methods.registry import find_method, method_module
from clflow.plugins import required
from clflow.provenance import code_of

_TRAINING = ("clflow.training.data", "clflow.training.outcome")
_SCORING = ("clflow.evaluation",)

Inputs = dict[str, Any]


def training_inputs(params: Params, method: str, data: str, synthetic: str) -> Inputs:
    """The inputs that determine a trained cell, beside its dataset, category, method and seed; JSON-able.

    Args:
        params: those of the category and the method.
        method: its name.
        data: hash of the training images.
        synthetic: key of the synthetic anomalies.

    Raises:
        ParameterError, WeightsError: the method, the backbone or its weights do not exist.
    """
    # They import torch, which who only plans synthetic anomalies must not wait for.
    from clflow.features.backbone import weights_identity
    from clflow.features.weights import backbone_modules, find_weights

    backbone = params.model.backbone
    return {
        "data": data,
        "synthetic": synthetic,
        "backbone": backbone,
        "weights": weights_identity(find_weights(backbone, params.model.weights)),
        "parameters": {name: params.value(name) for name in find_method(method).parameters},
        "plugins": required(base_method(method), backbone),
        **code_inputs(method_module(method), *backbone_modules(backbone), *_TRAINING),
    }


def scoring_inputs(method: str, key: str, test: str) -> Inputs:
    """The inputs that determine the scores of a cell.

    Args:
        method: its name.
        key: of the cell.
        test: hash of the test images and their masks.
    """
    return {"cell": key, "test": test, **code_inputs(method_module(method), *_SCORING)}


def code_inputs(*modules: str) -> Inputs:
    """The code of modules and of all that they import, and the libraries that it uses."""
    code = code_of(*modules)
    return {"code": code.files, "libraries": code.libraries}


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What changed between two trees of inputs, a line per leaf."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{name}/{key}" if name else str(key))
        ]
    return [] if before == now else [f"{name}: {_shown(before)} -> {_shown(now)}"]


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = str(value)
    return text[:12] if len(text) == 64 else text  # a hash
