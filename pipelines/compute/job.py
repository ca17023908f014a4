"""A slot: a place in the cluster in which a Ray Train job trains one cell after another.

Ray Train is imported where it runs: in the worker, and only for a group of workers in the driver, too.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

import ray

from clflow.config.params import Params
from clflow.config.schema import Resources
from clflow.files import cache_folder
from clflow.imports import quick_imports
from pipelines.compute import cluster
from pipelines.compute.checkpoints import Checkpoints
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace

Train = Callable[[dict[str, Any]], None]


def run_slot(slot: int, todo: list[Cell], params: Params, workspace: Workspace, storage: str, dispatcher: Any) -> None:
    """Train what the dispatcher hands out, until nothing is left; a worker that is lost is replaced.

    One job takes one cell after another: its processes take longer to start than many a cell to train.

    Args:
        slot: its number.
        todo: all cells that it may be handed.
        params: whose cells they are.
        workspace: where data are read.
        storage: where checkpoints are written.
        dispatcher: the actor that hands out cells.
    """
    config = {
        "slot": slot,
        "dispatcher": dispatcher,
        "cells": {
            cell.name: {
                "dataset": cell.dataset,
                "category": cell.category,
                "method": cell.method,
                "seed": cell.seed,
                "params": params.for_category(cell.dataset, cell.category, cell.method).model_dump_json(),
            }
            for cell in todo
        },
        "workspace": str(workspace.root),
        "cache": str(cache_folder() / "features"),
        "storage": storage,
        "level": min(logging.INFO, logging.getLogger("pipelines").getEffectiveLevel()),
    }

    def train(config: dict[str, Any]) -> None:
        # Ray sends a nested function by value, so a process that only passes it on needs none of our imports.
        with quick_imports():
            from pipelines.compute.worker import train_cells

        train_cells(config)

    # As many as all cells may use up; the dispatcher counts those of each.
    max_failures = params.resources.attempts * len(todo)
    if params.resources.workers_per_cell == 1:
        _run_single(train, config, params.resources, max_failures)
    else:
        _run_group(train, config, params.resources, max_failures, storage)


def _run_single(train: Train, config: dict[str, Any], resources: Resources, max_failures: int) -> None:
    """The job of one worker, in a process of its own: a group would need four more, which start longer than it does."""

    def train_single(config: dict[str, Any]) -> None:
        with quick_imports():
            from ray.train import ScalingConfig
            from ray.train.torch import TorchTrainer

        TorchTrainer(train, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()

    task = ray.remote(
        **cluster.worker_options(resources),
        max_retries=max_failures,
        retry_exceptions=True,
        max_calls=1,  # after an error the process may be in any state
    )(train_single)
    ray.get(task.remote(config))


def _run_group(train: Train, config: dict[str, Any], resources: Resources, max_failures: int, storage: str) -> None:
    """The job of several workers that train a cell together."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    workers, per_worker = resources.workers_per_cell, cluster.worker_resources(resources)
    name = f"slot-{uuid.uuid4().hex[:8]}"  # a new one each time: Ray resumes a run whose name it knows
    trainer = TorchTrainer(
        train,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu="GPU" in per_worker, resources_per_worker=per_worker),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=3),
        ),
    )
    try:
        trainer.fit()
    finally:
        Checkpoints(storage, name).clear()  # Ray's own files of the job
