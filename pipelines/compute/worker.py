"""What runs inside the Ray Train workers of a slot. It imports the method only, because every worker pays for its
imports."""

from __future__ import annotations

import logging
import os
import platform
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

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
from clflow.methods.loading import open_features
from clflow.methods.protocol import Method
from clflow.methods.registry import find_method
from clflow.precision import training_arithmetic
from clflow.training.data import CategoryFiles, FitData, load_fit_data
from clflow.training.outcome import save_outcome
from clflow.training.worker import Save, Worker, run
from pipelines.compute.checkpoints import FINISHED, Checkpoints
from pipelines.workspace.paths import Workspace

_log = logging.getLogger(__name__)
_LOGGED = ("clflow", "pipelines", "py.warnings")


def load_category(
    params: Params, method: str, files: CategoryFiles, cache: Path, device: torch.device
) -> tuple[Features, FitData]:
    """The method's features, and the training data of a category; test images are out of reach.

    Args:
        params: those of the category and the method.
        method: its name.
        files: of the category.
        cache: folder of the feature cache.
        device: where features are computed.
    """
    model = params.model
    # A frozen section has a hash, which its type does not tell.
    features, weights = _open_features(find_method(method), model, device)  # pyright: ignore[reportArgumentType]
    cached = FeatureCache(cache, params.resources.feature_cache_gb, features, weights, device)
    return features, load_fit_data(files, params, cached)


def category_files(params: Params, dataset: str, category: str, method: str, workspace: Workspace) -> CategoryFiles:
    """The files of a category that a method learns from."""
    data = workspace.data(dataset)
    rows = category_rows(read_manifest(data), category, "train")
    return CategoryFiles(rows, data, workspace.synthetic(dataset, params.synthetic_set(category, method)))


@lru_cache(maxsize=1)
def _open_features(method: Method, model: Model, device: torch.device) -> tuple[Features, str]:
    """What the method sees of an image, and what names the weights; one backbone is in memory for all categories."""
    return open_features(method, model, find_weights(model.backbone, model.weights), device)


def train_cells(config: dict[str, Any]) -> None:
    """Train one cell after another, as one of the workers of a slot, until the dispatcher has no more.

    An error ends the worker, whose process may be in any state; Ray starts another, and the dispatcher decides whether
    the cell is tried again.

    Args:
        config: the number of the ``slot``, the actor ``dispatcher``, ``cells`` by name, with their ``dataset``,
            ``category``, ``method``, ``seed`` and ``params`` as JSON, and the paths ``workspace``, ``cache`` and
            ``storage``, and the ``level`` of what is written to cells' logs. All but the actor are of built-in types,
            so that Ray's controller needs none of our modules.
    """
    slot, dispatcher = config["slot"], config["dispatcher"]
    first = ray.train.get_context().get_world_rank() == 0
    while True:
        name: str | None = ray.get(dispatcher.next.remote(slot)) if first else None
        name = broadcast_from_rank_zero(name)
        if name is None:
            return
        try:
            with _logged(name, config):
                _train_cell(name, config)
        except Exception as error:
            final = isinstance(error, ClflowError)  # its input is at fault, or its parameters
            ray.get(dispatcher.failed.remote(slot, traceback.format_exc(), final))
            raise
        if first:
            ray.get(dispatcher.finished.remote(slot))


@contextmanager
def _logged(name: str, config: dict[str, Any]) -> Iterator[None]:
    """Let the log of a cell, which the driver writes, have the log records and warnings of its training."""
    handler = _ToDispatcher(name, config["dispatcher"])
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(logger) for logger in _LOGGED]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.setLevel(config["level"])
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        logging.captureWarnings(False)


class _ToDispatcher(logging.Handler):
    def __init__(self, cell: str, dispatcher: Any):
        super().__init__()
        self.cell, self.dispatcher = cell, dispatcher

    def emit(self, record: logging.LogRecord) -> None:
        self.dispatcher.line.remote(self.cell, self.format(record))


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
    place = f"process {os.getpid()} on {platform.node()}, {device}, {torch.get_num_threads()} threads"
    begin = f"from step {int(kept[-1])}" if kept else "from the start"
    _log.info("worker %d of %d: %s; %s", rank + 1, world, place, begin)

    method, workspace = cell["method"], Workspace(Path(config["workspace"]))
    trains = find_method(method)
    files = category_files(params, cell["dataset"], cell["category"], method, workspace)
    features, data = load_category(params, method, files, Path(config["cache"]), device)

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
        training = trains.fit(features, data, params, cell["seed"], worker, resume)
        detector, history = run(training, report)
    if rank == 0:
        bfloat16 = "train.bfloat16" in trains.parameters and params.train.bfloat16
        arithmetic = training_arithmetic(bfloat16, device)
        rate = params.protocol.false_alarm_rate
        checkpoints.write(
            FINISHED, lambda folder: save_outcome(folder, detector, history, data, rate, device, arithmetic)
        )
