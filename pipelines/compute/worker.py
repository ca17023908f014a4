"""What runs inside the Ray Train workers of a slot. It imports the method only, because every worker pays for its
imports."""

from __future__ import annotations

import traceback
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import ray
import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device, prepare_model

from clflow.config.params import Params
from clflow.config.schema import Model
from clflow.data.manifest import category_rows, read_manifest
from clflow.errors import ClflowError
from clflow.features.cache import FeatureCache
from clflow.features.extraction import Features
from clflow.features.weights import find_weights
from clflow.files import write_json
from clflow.methods import find_method
from clflow.methods.protocol import Method
from clflow.model.detector import Detector
from clflow.training.data import FitData, load_fit_data
from clflow.training.loop import Save, Worker, run, score_features
from pipelines.compute.checkpoints import Checkpoints

FINISHED = "finished"
"""The last checkpoint of a cell: its detector and curves, and what else its training has to tell."""

OUTCOME = "outcome.json"
"""The latter, as the cell's record has it."""


def load_category(
    params: Params, dataset: str, category: str, method: str, workspace: Path, cache: Path, device: torch.device
) -> tuple[Features, FitData]:
    """What the method sees of an image, and the training data of a category; test images are out of reach.

    Args:
        params: those of the category and the method.
        cache: folder of the feature cache.
    """
    folder = workspace / "data" / dataset
    model = params.model
    # A frozen section has a hash, which its type does not tell.
    features, weights = _open_features(find_method(method), model, device)  # pyright: ignore[reportArgumentType]
    data = load_fit_data(
        features,
        category_rows(read_manifest(folder), category, "train"),
        folder,
        workspace / "synthetic" / dataset / params.synthetic_set(category, method),
        params,
        FeatureCache(cache, params.resources.feature_cache_gb),
        weights,
        device,
    )
    return features, data


@lru_cache(maxsize=1)
def _open_features(method: Method, model: Model, device: torch.device) -> tuple[Features, str]:
    """What the method sees of an image, and what names the weights; one backbone is in memory for all categories."""
    weights = find_weights(model.backbone, model.weights)
    return method.features(weights, model).to(device), weights.identity()


def train_cells(config: dict[str, Any]) -> None:
    """Train one cell after another, as one of the workers of a slot, until the dispatcher has no more.

    An error ends the worker, whose process may be in any state; Ray starts another, and the dispatcher decides whether
    the cell is tried again.

    Args:
        config: the number of the ``slot``, the actor ``dispatcher``, ``cells`` by name, with their ``dataset``,
            ``category``, ``method``, ``seed`` and ``params`` as JSON, and the paths ``workspace``, ``cache`` and
            ``storage``. All but the actor are of built-in types, so that Ray's controller needs none of our modules.
    """
    slot, dispatcher = config["slot"], config["dispatcher"]
    first = ray.train.get_context().get_world_rank() == 0
    while True:
        name: str | None = ray.get(dispatcher.next.remote(slot)) if first else None
        name = broadcast_from_rank_zero(name)
        if name is None:
            return
        try:
            _train_cell(name, config)
        except Exception as error:
            final = isinstance(error, ClflowError)  # its input is at fault, or its parameters
            ray.get(dispatcher.failed.remote(slot, traceback.format_exc(), final))
            raise
        if first:
            ray.get(dispatcher.finished.remote(slot))


def _train_cell(name: str, config: dict[str, Any]) -> None:
    """Train one cell from where it was left; its detector is in the storage at the end."""
    cell = config["cells"][name]
    params = Params.model_validate_json(cell["params"])
    checkpoints = Checkpoints(config["storage"], name)
    context = ray.train.get_context()
    rank, world, device = context.get_world_rank(), context.get_world_size(), get_device()
    assert isinstance(device, torch.device), "one device per worker"
    torch.set_num_threads(params.resources.cpus_per_worker)
    kept = checkpoints.names()
    if FINISHED in kept:  # the driver died before it could take it
        return

    features, data = load_category(
        params,
        cell["dataset"],
        cell["category"],
        cell["method"],
        Path(config["workspace"]),
        Path(config["cache"]),
        device,
    )

    def report(point: dict[str, float], save: Save) -> None:
        nonlocal kept
        if rank != 0:
            return
        new = f"{int(point['step']):09}"
        checkpoints.write(new, save)
        if not params.train.keep_eval_weights:
            for old in set(kept) - {new}:
                checkpoints.remove(old)
            kept = [new]
        config["dispatcher"].point.remote(name, point)  # last: what is told is kept

    worker = Worker(rank, world, device, prepare_model if world > 1 else lambda module: module)
    with checkpoints.read(kept[-1]) if kept else nullcontext() as resume:
        training = find_method(cell["method"]).fit(features, data, params, cell["seed"], worker, resume)
        detector, history = run(training, report)
    if rank == 0:
        checkpoints.write(FINISHED, lambda folder: _save(folder, detector, history, data, device))


def _save(
    folder: Path, detector: Detector, history: list[dict[str, float]], data: FitData, device: torch.device
) -> None:
    detector.save(folder)
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    normal, synthetic = (
        score_features(detector.scorer, rows, device)[1].tolist()
        for rows in (data.held_out_normal, data.held_out_synthetic)
    )
    held_out = {"label": [0] * len(normal) + [1] * len(synthetic), "image_score": [*normal, *synthetic]}
    pd.DataFrame(held_out).to_csv(folder / "held_out.csv", index=False)
    outcome = {
        "train_seconds": history[-1]["seconds"],
        "params_added": detector.parameter_count(),
        "image_threshold": detector.thresholds.image,
        "pixel_threshold": detector.thresholds.pixel,
        "median_pixel_score": detector.thresholds.median_pixel_score,
    }
    write_json(folder / OUTCOME, outcome)
