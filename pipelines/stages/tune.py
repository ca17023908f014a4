"""Stage ``tune``: Ray Tune draws configurations with Optuna, stops poor ones early (ASHA), and the best becomes a file.

A trial is judged by validation figures alone; test images are out of its reach. Every trial that ends is written to
disk at once: a search that was killed, or is asked for more trials, goes on from what is known.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from itertools import count
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from clflow.config.params import Params
from clflow.config.schema import Distribution
from clflow.files import cache_folder
from clflow.imports import quick_imports
from pipelines.compute import cluster
from pipelines.compute.progress import Board
from pipelines.search.study import DIVERGED, OBJECTIVE, Record, Search, present_values, require_replaceable, write_found
from pipelines.tracking.tracker import Tracker
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import Plan

_log = logging.getLogger(__name__)


def run(
    params: Params,
    dataset: str,
    workspace: Workspace,
    categories: tuple[str, ...] = (),
    each: bool = False,
    trials: int | None = None,
    timeout: float | None = None,
) -> Path:
    """Search one configuration for some categories together; returns the file with what was found.

    Args:
        categories: of the dataset; none means all.
        each: search every category alone instead. Numbers from such parameters are marked in all tables.
        trials, timeout: of each search (seconds), instead of those of params.yaml. Trials that are known count.

    Raises:
        ParameterError: the present parameters lie outside the search space.
        DataError: a category or its synthetic anomalies are not there yet.
        ClflowError: no trial of a search finished, or what was found would replace a file of somebody else.
    """
    known = params.data[dataset].categories
    chosen = categories or known
    # Or stop before anything is started.
    present_values(params)
    name = "-".join((dataset, *(() if set(chosen) == set(known) else chosen), *(("each",) if each else ())))
    target = workspace.tuned(name)
    require_replaceable(target)
    groups = [(category,) for category in chosen] if each else [chosen]
    plan = Plan(params, dataset, workspace)
    searches = [Search.of(plan, group) for group in groups]
    tracker = Tracker.connect(params, workspace)
    wanted, seconds = trials or params.tune.trials, timeout or params.tune.timeout
    todo = [search for search in searches if len(search.records()) < wanted]
    if todo:
        plan.require_weights((category, params.tune.method) for category in chosen)
        with cluster.session(params.resources):
            for search in todo:
                _run_trials(search, wanted, seconds, params, workspace, tracker)
    for search in searches:
        tracker.sync_search(search)
    write_found(searches, each, params, target)
    return target


def _run_trials(
    search: Search, wanted: int, timeout: float | None, params: Params, workspace: Workspace, tracker: Tracker
) -> None:
    slots = cluster.concurrent_cells(params.resources.model_copy(update={"workers_per_cell": 1}))
    resources = {kind.lower(): amount for kind, amount in cluster.worker_resources(params.resources).items()}
    job = {
        "params": params.model_dump_json(),
        "dataset": search.dataset,
        "categories": list(search.categories),
        "workspace": str(workspace.root),
        "cache": str(cache_folder() / "features"),
    }

    def train(values: dict[str, Any]) -> None:
        # Ray sends a nested function by value, so this process needs none of its imports.
        with quick_imports():
            from pipelines.search.trial import run_trial

        run_trial(values, job)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}  # the board shows it all
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would end the search as if all its trials had been run
    # Tune's own files of the run; what is worth keeping is in the records.
    storage = search.folder / "ray"
    shutil.rmtree(storage, ignore_errors=True)
    records = search.records()
    with Board(tuple(params.tune.space), wanted, slots, workspace.log, done=len(records)) as board:
        more = f", {len(records)} of them known" if records else ""
        _log.info("%s: %d trials%s, %d at once; each has a log in %s", search.name, wanted, more, slots, workspace.logs)
        recorder = _Recorder(search, records, params, timeout, board, tracker)
        tuner = tune.Tuner(
            tune.with_resources(train, resources),
            tune_config=tune.TuneConfig(
                search_alg=_sampler(params, records),
                scheduler=ASHAScheduler(
                    metric=OBJECTIVE,
                    mode="max",
                    max_t=params.train.eval_points,
                    grace_period=min(params.tune.grace, params.train.eval_points),
                    reduction_factor=params.tune.reduction,
                ),
                num_samples=wanted - len(records),
                time_budget_s=timeout,
                max_concurrent_trials=slots,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(storage),
                callbacks=[recorder],
                failure_config=tune.FailureConfig(max_failures=params.resources.attempts - 1),
                verbose=0,
            ),
        )
        tuner.fit()
    shutil.rmtree(storage, ignore_errors=True)


def _sampler(params: Params, records: list[Record]) -> OptunaSearch:
    """Optuna's TPE, told of every trial that is known; it begins with the present parameters."""
    default = present_values(params)
    sampler = OptunaSearch(
        {key: _distribution(distribution) for key, distribution in params.tune.space.items()},
        metric=OBJECTIVE,
        mode="max",
        # Not the same draws again when a search goes on.
        seed=params.tune.seeds[0] + len(records),
        points_to_evaluate=[default] if all(record.number != 0 for record in records) else None,
    )
    for record in records:
        if record.objective is not None:
            sampler.add_evaluated_point(record.values, record.objective)
    return sampler


def _distribution(distribution: Distribution) -> BaseDistribution:
    if distribution.integer is not None:
        return IntDistribution(*distribution.integer)
    if distribution.range is not None:
        return FloatDistribution(*distribution.range, log=distribution.log_uniform is not None)
    return CategoricalDistribution(distribution.extremes())


class _Recorder(tune.Callback):
    """Follows the trials of one run of Tune: shows them, and remembers each one that ends, on disk and in MLflow."""

    def __init__(
        self,
        search: Search,
        known: list[Record],
        params: Params,
        timeout: float | None,
        board: Board,
        tracker: Tracker,
    ):
        self.search, self.params, self.board, self.tracker = search, params, board, tracker
        self.default = present_values(params)
        self.free = count(max((record.number for record in known), default=0) + 1)
        self.deadline = math.inf if timeout is None else time.perf_counter() + timeout
        self.numbers: dict[str, int] = {}
        self.curves: dict[str, list[dict[str, float]]] = {}
        self.begun: dict[str, float] = {}
        for record in known:
            score = "" if record.objective is None else f", validation AUROC {record.objective:.3f}"
            board.add(self._name(record.number), self._columns(record.values), f"{record.state} before{score}")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that our own records make needless."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial begins, or begins again after its worker died."""
        if trial.trial_id not in self.numbers:
            self.numbers[trial.trial_id] = 0 if trial.config == self.default else next(self.free)
        self.curves[trial.trial_id] = []
        self.begun[trial.trial_id] = time.perf_counter()
        self.board.add(self._name_of(trial), self._columns(trial.config))
        self.board.began(self._name_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        point = {name: value for name, value in result.items() if name == "step" or name.startswith(OBJECTIVE)}
        self.curves[trial.trial_id].append(point)
        self.board.progress(self._name_of(trial), point)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial has ended by itself, was stopped as poor, or was cut by the timeout; then it is forgotten."""
        error = trial.last_result.get(DIVERGED)
        whole = len(self.curves[trial.trial_id]) == self.params.train.eval_points
        if error is not None:
            self._end(trial, "failed", error)
        elif whole or time.perf_counter() < self.deadline:
            self._end(trial, "finished" if whole else "stopped", None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial has failed for good."""
        text = str(trial.get_error()).strip()
        self._end(trial, "failed", text.splitlines()[-1] if text else "unknown error")

    def _end(self, trial: Trial, state: Literal["finished", "stopped", "failed"], error: str | None) -> None:
        seconds = time.perf_counter() - self.begun[trial.trial_id]
        number = self.numbers[trial.trial_id]
        record = Record(number, state, trial.config, self.curves[trial.trial_id], seconds, error)
        self.search.keep(record)
        self.tracker.log_trial(self.search, record)
        if error is None:
            self.board.finished(self._name(number), state)
        else:
            self.board.failed(self._name(number), error)

    def _name_of(self, trial: Trial) -> str:
        return self._name(self.numbers[trial.trial_id])

    def _name(self, number: int) -> str:
        return f"trial-{self.search.key[:8]}-{number:04}"

    def _columns(self, values: dict[str, Any]) -> tuple[str, ...]:
        return tuple(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values.values())
