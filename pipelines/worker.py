"""What runs inside the Ray Train workers of a cell. It imports the method only, because every worker of every cell
pays for its imports."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import get_device, prepare_model

from clflow.cache import FeatureCache
from clflow.data.manifest import category_rows, read_manifest
from clflow.fit import Save, Worker, run, score_features
from clflow.fitdata import FitData, load_fit_data
from clflow.methods import find_method
from clflow.methods.protocol import Method
from clflow.model.backbone import find_weights
from clflow.model.features import Features
from clflow.params import Params
from clflow.sections import Model

DETECTOR = "detector"
"""Sub-folder of a job's last checkpoint that holds the finished detector."""


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


def train_cell(config: dict[str, Any]) -> dict[str, Any]:
    """Train one cell as one of its workers; rank 0 returns what the driver writes beside the detector.

    Args:
        config: ``name``, ``dataset``, ``category``, ``method`` and ``seed`` of the cell, its ``params`` as JSON, the
            paths ``workspace`` and ``cache``, and ``events``, the queue for learning curves. All but the queue are of
            built-in types, so that Ray's controller needs none of our modules.
    """
    params = Params.model_validate_json(config["params"])
    context = ray.train.get_context()
    rank, world, device = context.get_world_rank(), context.get_world_size(), get_device()
    assert isinstance(device, torch.device), "one device per worker"
    torch.set_num_threads(params.resources.cpus_per_worker)

    features, data = load_category(
        params,
        config["dataset"],
        config["category"],
        config["method"],
        Path(config["workspace"]),
        Path(config["cache"]),
        device,
    )

    last_save: Save | None = None

    def report(point: dict[str, float], save: Save) -> None:
        nonlocal last_save
        last_save = save
        if rank == 0:
            config["events"].put((config["name"], point))
        send(point, save)

    def send(point: dict[str, float], save: Save) -> None:
        if rank != 0:
            ray.train.report(point)
            return
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            ray.train.report(point, checkpoint=ray.train.Checkpoint.from_directory(folder))

    worker = Worker(rank, world, device, prepare_model if world > 1 else lambda module: module)
    with tempfile.TemporaryDirectory() as resumed:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint:
            checkpoint.to_directory(resumed)
        resume = Path(resumed) if checkpoint else None
        method = find_method(config["method"])
        detector, history = run(method.fit(features, data, params, config["seed"], worker, resume), report)

        def save_all(folder: Path) -> None:
            # With what a resumed run needs, too: the driver may die before it has kept the detector.
            if last_save is not None:
                last_save(folder)
            else:
                shutil.copytree(resumed, folder, dirs_exist_ok=True)
            (folder / DETECTOR).mkdir(exist_ok=True)
            detector.save(folder / DETECTOR)

        send(history[-1], save_all)
    normal, synthetic = (
        score_features(detector.scorer, rows, device)[1].tolist()
        for rows in (data.held_out_normal, data.held_out_synthetic)
    )
    return {
        "history": history,
        "held_out": {"label": [0] * len(normal) + [1] * len(synthetic), "image_score": [*normal, *synthetic]},
        "params_added": detector.parameter_count(),
        "thresholds": asdict(detector.thresholds),
    }
