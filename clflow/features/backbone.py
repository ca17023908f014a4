"""The frozen, pretrained backbone: any timm model with spatial features, or a network of a plug-in, cut after the last
stage that is used."""

from __future__ import annotations

import copy
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clflow.errors import ParameterError, WeightsError
from clflow.features.hub import hub_answers, hub_or_cache
from clflow.features.weights import Weights, build_network
from clflow.features.zoo import import_timm
from clflow.files import cache_folder, file_sha256, read_json, write_json

_PROBE = 64  # pixels
_ROUNDING = 1e-4  # of the largest value of a level


class Backbone(nn.Module):
    """Pretrained features at the asked strides; frozen and always in evaluation mode.

    Args:
        weights: what to load.
        strides: increasing strides, each of which the model must offer.

    Raises:
        ParameterError: the model has no features at one of the strides.
        WeightsError: the weights are unavailable or do not fit; random weights are never used instead.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Weights, strides: tuple[int, ...]):
        super().__init__()
        self.name = weights.backbone
        self.net = pretrained_model(weights)
        self._digest = _digest(self.net)
        levels = {info["reduction"]: index for index, info in enumerate(self.net.feature_info)}
        missing = [stride for stride in strides if stride not in levels]
        if missing:
            raise ParameterError(
                f"model.strides asks for {missing}, but {weights.backbone} has features at {sorted(levels)}."
            )
        self.strides = strides
        self.levels = [levels[stride] for stride in strides]
        self.channels = tuple(int(self.net.feature_info[level]["num_chs"]) for level in self.levels)
        self.net.prune_intermediate_layers(self.levels, prune_norm=True)
        config = self.net.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()
        self._fold_batch_norms()
        self.net.to(memory_format=torch.channels_last)  # with folded norms, two thirds of the time on a CPU

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: the batch-norm statistics are part of the frozen weights."""
        return super().train(False)

    def forward(self, images_bchw: Tensor) -> list[Tensor]:
        """Features, finest first, each (B, C_i, H / stride_i, W / stride_i), of RGB images in [0, 1]."""
        return self.net.forward_intermediates(
            (images_bchw - self.mean) / self.std,
            indices=self.levels,
            stop_early=True,
            intermediates_only=True,
        )

    def digest(self) -> str:
        """SHA-256 of the tensors as they were loaded, but for a classifier: proof of which weights are in use."""
        return self._digest

    def _fold_batch_norms(self) -> None:
        """Fold them into the convolutions before them, unless this model's features change by more than rounding."""
        probe = torch.rand(1, 3, _PROBE, _PROBE, generator=torch.Generator().manual_seed(0))
        expected, unfolded = self(probe), copy.deepcopy(self.net)
        _fold(self.net)
        if not all(
            torch.allclose(found, level, rtol=0, atol=_ROUNDING * float(level.abs().max()))
            for found, level in zip(self(probe), expected, strict=True)
        ):
            self.net = unfolded


def weights_identity(weights: Weights) -> str:
    """Identity of weights by content: the hash of a file, or the digest of a hub's tensors.

    The digest is computed when a hub's model is first asked for, and remembered in the user's cache folder.

    Raises:
        WeightsError: the hub's model is unavailable.
    """
    if weights.file is not None:
        return f"file:{_file_sha256(weights.file, weights.file.stat().st_mtime_ns)}"
    record = cache_folder() / "weights" / f"{weights.backbone}-timm-{import_timm().__version__}.json"
    if not record.exists():
        write_json(record, {"digest": _digest(pretrained_model(weights))})
    return f"tensors:{read_json(record)['digest']}"


def require_identity(backbone: Backbone, weights: Weights, identity: str) -> None:
    """Make sure that loaded weights are those that `weights_identity` names.

    Raises:
        WeightsError: the hub has others now.
    """
    if weights.file is None and identity != f"tensors:{backbone.digest()}":
        raise WeightsError(
            f"the hub's weights of {weights.backbone} are not those of the plan any more; remove "
            f"{cache_folder() / 'weights'} and plan again."
        )


@lru_cache(maxsize=64)
def _file_sha256(file: Path, changed: int) -> str:
    """Hash of a file; ``changed`` is when it was written."""
    return file_sha256(file)


def _digest(net: Any) -> str:
    classifier = net.pretrained_cfg["classifier"]
    state = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        if classifier and name.startswith(classifier):
            continue
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def _fold(module: nn.Module) -> None:
    """Fold every batch norm that is registered right after a convolution; its activation, if it has one, stays."""
    last: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if last is not None and isinstance(child, nn.BatchNorm2d):
            setattr(module, last[0], fuse_conv_bn_eval(last[1], child))
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            _fold(child)
        last = (name, child) if isinstance(child, nn.Conv2d) else None


def require_weights(weights: Weights) -> None:
    """Make sure that weights can be loaded, before workers are started, each of which would say so at length.

    Raises:
        WeightsError: the hub does not answer, and they were not downloaded before.
    """
    if weights.file is None and not hub_answers():
        pretrained_model(weights)


def pretrained_model(weights: Weights) -> Any:
    """The whole network with every tensor loaded; only a classifier may be missing from a local file."""
    timm = import_timm()
    model = None if weights.file is None else build_network(weights.backbone)
    try:
        if model is None:
            with hub_or_cache(weights.backbone):
                return timm.create_model(weights.backbone, pretrained=True).eval()
        state = timm.models.load_state_dict(str(weights.file), weights_only=True)
        if "_conv_stem.weight" in state:
            state = _rename_efficientnet(state, model)
        missing = model.load_state_dict(state, strict=False).missing_keys
        missing = [key for key in missing if not key.startswith(model.pretrained_cfg["classifier"])]
    except WeightsError:
        raise
    except Exception as error:  # hub, network and checkpoint libraries raise types of their own
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"could not load weights of {weights.backbone} from {weights.file or 'the model hub'} "
            f"({type(error).__name__}: {reason}); give model.weights a local file that fits."
        ) from error
    if missing:
        raise WeightsError(
            f"{weights.file} lacks {len(missing)} tensors of {weights.backbone} (first: {missing[0]}); "
            "it belongs to another model."
        )
    return model.eval()


def _rename_efficientnet(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Tensor names of the first PyTorch port of EfficientNet, which the pip packages use, in timm's terms."""
    names = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    blocks = [(f"blocks.{s}.{b}", block) for s, stage in enumerate(model.blocks) for b, block in enumerate(stage)]
    for i, (place, block) in enumerate(blocks):
        ours = ["conv_dw", "bn1", "conv_pw", "bn2"]
        theirs = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        if hasattr(block, "conv_pwl"):  # an inverted residual first expands its channels
            ours = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
            theirs = ["_expand_conv", "_bn0", *theirs]
        names |= {f"_blocks.{i}.{old}": f"{place}.{new}" for old, new in zip(theirs, ours, strict=True)}
    layers = ((key.rpartition("."), tensor) for key, tensor in state.items())
    return {f"{names[layer]}.{leaf}": tensor for (layer, _, leaf), tensor in layers}
