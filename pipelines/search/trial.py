"""What runs inside a trial of a search: the same training as a cell's, of all categories and seeds in step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from clflow.config.params import TUNED, Override, Params, Tuned
from clflow.errors import DivergenceError
from clflow.judge import best_device
from clflow.methods.registry import find_method
from clflow.training.worker import Worker
from pipelines.compute.worker import category_files, load_category
from pipelines.search.study import DIVERGED, OBJECTIVE
from pipelines.workspace.paths import Workspace


def run_trial(values: dict[str, Any], job: dict[str, Any]) -> None:
    """Train one configuration and report to Ray Tune as often as a cell does; nothing is kept but the figures.

    Args:
        values: what the search drew, by keys as ``tune.space`` has them.
        job: ``params`` as JSON, ``dataset``, ``categories``, and the paths ``workspace`` and ``cache``.
    """
    params = Params.model_validate_json(job["params"])
    drawn = Tuned(search={}, parameters=Override.of(values), overrides={})
    params = params.model_copy(update={"tuned": drawn})
    torch.set_num_threads(params.resources.cpus_per_worker)
    device = best_device()
    worker, workspace = Worker.single(device), Workspace(Path(job["workspace"]))
    name = params.tune.method + TUNED
    method = find_method(name)
    trainings = []
    for category in job["categories"]:
        own = params.for_category(job["dataset"], category, name)
        files = category_files(own, job["dataset"], category, name, workspace)
        features, data = load_category(own, name, files, Path(job["cache"]), device)
        trainings += [method.fit(features, data, own, seed, worker) for seed in params.tune.seeds]
    try:
        for reports in zip(*trainings, strict=True):
            points = [point for point, _ in reports]
            scores = np.array([point[OBJECTIVE] for point in points]).reshape(len(job["categories"]), -1).mean(axis=1)
            figures = {f"{OBJECTIVE}.{c}": float(score) for c, score in zip(job["categories"], scores, strict=True)}
            tune.report({"step": points[0]["step"], OBJECTIVE: float(scores.mean()), **figures})
    except DivergenceError as error:
        tune.report({"step": 0, OBJECTIVE: 0.0, DIVERGED: str(error)})
