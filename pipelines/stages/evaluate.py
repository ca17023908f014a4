"""Stage ``evaluate``: score every test image with every trained cell; the backbone sees an image once per category."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import ray
import torch
from ray.exceptions import RayTaskError
from safetensors import SafetensorError
from safetensors.torch import load_file

from clflow.config.params import Params
from clflow.data.manifest import category_rows, data_hash
from clflow.errors import CellError, ClflowError, DataError
from clflow.evaluation import Evaluation, evaluate
from clflow.files import fingerprint, folder_atomically, sweep, write_json
from clflow.judge import best_device
from clflow.methods.loading import load_detector
from clflow.model.detector import Detector
from clflow.model.scorer import FlowScorer
from clflow.training.outcome import device_name
from pipelines.compute import cluster
from pipelines.workspace.cells import ALL, EVAL_SCORES, EVAL_WEIGHTS, SCORED, Cell, Selection
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import Plan
from pipelines.workspace.results import is_scored, is_trained, read_score_record

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Task:
    """The test images of one category, and its cells that are to score them, with the keys of their scores."""

    rows: pd.DataFrame
    keys: dict[Cell, str]


@dataclass(frozen=True)
class _Scores:
    """What a cell says of the N test images of its category.

    Attributes:
        image: (N,).
        maps: (N, h, w).
        by_step: image scores by the weights of each evaluation of its training; may be empty.
        inference_ms: per image; None without images.
        device: that computed; None without images.
    """

    image: np.ndarray
    maps: np.ndarray
    by_step: dict[int, np.ndarray]
    inference_ms: float | None
    device: str | None


_NO_SCORES = _Scores(np.empty(0), np.empty((0, 1, 1)), {}, None, None)


def run(params: Params, dataset: str, workspace: Workspace, selection: Selection = ALL) -> None:
    """Score the test images of a dataset with those selected cells that have no scores of them yet.

    A cell of a category without test images has an empty table of scores.

    Raises:
        CellError: a cell is not trained.
        DataError: an image or a cell is damaged.
        WeightsError: pretrained weights are unavailable.
    """
    plan = Plan(params, dataset, workspace)
    wanted = selection.of(plan.cells)
    untrained = [cell.name for cell in wanted if not is_trained(cell, workspace)]
    if untrained:
        raise CellError(f"{len(untrained)} cells of {dataset} are not trained ({', '.join(untrained[:3])}); run train.")
    sweep(workspace.scores(dataset))
    tasks: dict[str, _Task] = {}
    for cell in wanted:
        key = fingerprint(plan.scored[cell])
        if not (is_scored(cell, workspace) and read_score_record(cell, workspace)["score_key"] == key):
            rows = category_rows(plan.manifest, cell.category, "test")
            tasks.setdefault(cell.category, _Task(rows, {})).keys[cell] = key
    for category in [category for category, task in tasks.items() if task.rows.empty]:
        task = tasks.pop(category)
        for cell in task.keys:
            _store(task, cell, _NO_SCORES, workspace)
        _log.info("%s %s: no test images", dataset, category)
    if not tasks:
        return
    plan.require_weights((category, cell.method) for category, task in tasks.items() for cell in task.keys)
    with cluster.session(params.resources):
        cluster.concurrent_cells(params.resources)
        score = ray.remote(**cluster.worker_options(params.resources))(_score_category)
        pending = {score.remote(task, workspace, params.resources.cpus_per_worker): c for c, task in tasks.items()}
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            try:
                seconds = ray.get(done)
            except RayTaskError as error:
                if isinstance(error.cause, ClflowError):
                    raise error.cause from None  # without the trace that Ray puts before what was said
                raise
            category = pending.pop(done)
            _log.info("%s %s: %d cells scored in %.1f s", dataset, category, len(tasks[category].keys), seconds)


def _score_category(task: _Task, workspace: Workspace, threads: int) -> float:
    """Score one category's test images with its cells; returns seconds."""
    begin = time.perf_counter()
    torch.set_num_threads(threads)
    device = best_device()
    evaluations: dict[Cell, Evaluation] = {}
    for cell in task.keys:
        folder = workspace.run(cell)
        shared = {evaluation.detector.features for evaluation in evaluations.values()}
        detector = load_detector(folder, shared).to(device)
        evaluations[cell] = Evaluation(detector, dict(_eval_scorers(folder, detector)))
    data = workspace.data(next(iter(task.keys)).dataset)
    evaluate(list(evaluations.values()), [data / path for path in task.rows["path"]], device)
    seconds = time.perf_counter() - begin
    for cell, evaluation in evaluations.items():
        scores = _Scores(
            np.concatenate(evaluation.scores),
            np.concatenate(evaluation.maps),
            {step: np.concatenate(of_step) for step, of_step in sorted(evaluation.eval_scores.items())},
            1000 * evaluation.seconds / len(task.rows),
            device_name(device),
        )
        _store(task, cell, scores, workspace)
    return seconds


def _store(task: _Task, cell: Cell, scores: _Scores, workspace: Workspace) -> None:
    with folder_atomically(workspace.score(cell)) as folder:
        table = task.rows[["path", "label", "defect", "mask"]].assign(image_score=scores.image)
        table.to_csv(folder / "scores.csv", index=False)
        np.save(folder / "maps.npy", scores.maps.astype(np.float32))
        if scores.by_step:
            pd.DataFrame(scores.by_step).to_csv(folder / EVAL_SCORES, index=False)
        record = {
            "key": cell.key,
            "score_key": task.keys[cell],
            "test_hash": data_hash(task.rows),
            "inference_ms": scores.inference_ms,
            "device": scores.device,
        }
        write_json(folder / SCORED, record)


def _eval_scorers(folder: Path, detector: Detector) -> dict[int, FlowScorer]:
    """The detector's scorer with the weights of each evaluation, by step, where the cell has kept them.

    Raises:
        DataError: a file of them is damaged.
    """
    scorers: dict[int, FlowScorer] = {}
    for path in (folder / EVAL_WEIGHTS).glob("*.safetensors"):
        assert isinstance(detector.scorer, FlowScorer), "only weights of flows are kept"
        scorer = detector.scorer.with_flows(copy.deepcopy(detector.scorer.flows))
        try:
            scorer.flows.load_state_dict(load_file(path))
        except SafetensorError as error:
            raise DataError(f"{path} is damaged ({error}); remove {folder} and train its cell again.") from None
        scorers[int(path.stem)] = scorer
    return scorers
