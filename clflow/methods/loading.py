"""Loading a detector from a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clflow.calibration import Thresholds
from clflow.config.schema import Model
from clflow.errors import DataError, WeightsError
from clflow.features.backbone import require_identity, weights_identity
from clflow.features.extraction import Features
from clflow.features.weights import Weights, find_weights
from clflow.files import read_json
from clflow.methods.protocol import Method
from clflow.methods.registry import find_method
from clflow.model.detector import CONFIG_FILE, WEIGHTS_FILE, Detector
from clflow.plugins import require_installed


def load_detector(folder: Path, shared: Iterable[Features] = ()) -> Detector:
    """Load a detector that `Detector.save` wrote.

    Args:
        folder: of the detector.
        shared: features of other detectors; those that fit are used instead of another backbone in memory.

    Raises:
        DataError: the folder holds no detector, a damaged one, or one of a version that saw or scored images otherwise.
        ParameterError: its method or its backbone needs a package that is not installed.
        WeightsError: the backbone's weights are missing or are not those of the training.
    """
    try:
        config = read_json(folder / CONFIG_FILE)
        state = load_file(folder / WEIGHTS_FILE)
    except (FileNotFoundError, json.JSONDecodeError, SafetensorError) as error:
        raise DataError(f"{folder} holds no whole trained detector ({error}); train or copy it again.") from None
    model, digest = Model.model_validate_json(json.dumps(config["model"])), config["backbone_digest"]
    require_installed(config.get("plugins", {}), f"the detector in {folder}")
    method = find_method(config["method"])
    wanted = config["features"], model.backbone, digest
    fitting = (f for f in shared if (list(f.identity), f.backbone.name, f.backbone.digest()) == wanted)
    features = next(fitting, None) or method.features(find_weights(model.backbone, model.weights), model)
    if list(features.identity) != config["features"]:
        raise DataError(
            f"the detector in {folder} was trained on other features than this version of clflow computes; train it "
            "again, or use the version that trained it."
        )
    if features.backbone.digest() != digest:
        raise WeightsError(
            f"the weights of {model.backbone} from {model.weights!r} are not those that {folder} was trained with; "
            "install the same weights or train again."
        )
    scorer = method.scorer(features, model, config["image_size"], config["seed"])
    try:
        scorer.load_state_dict(state)
    except RuntimeError:  # names or shapes do not fit
        raise DataError(
            f"the detector in {folder} is of another form than this version of clflow builds; train it again, or use "
            "the version that trained it."
        ) from None
    thresholds = Thresholds.read(config["thresholds"], folder)
    return Detector(method.name, features, scorer, model, config["seed"], config["image_size"], thresholds)


def open_features(method: Method, model: Model, weights: Weights, device: torch.device) -> tuple[Features, str]:
    """A method's features on a device, and the content hash of the backbone's weights.

    Raises:
        WeightsError: the weights are unavailable or do not fit.
    """
    identity, features = weights_identity(weights), method.features(weights, model)
    require_identity(features.backbone, weights, identity)
    return features.to(device), identity
