"""Stage `synthesize`: synthetic anomalies of every category of a dataset, made anew only where something changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from clflow.config.params import Params
from clflow.errors import ClflowError, DataError
from clflow.files import read_json, sweep
from clflow.synthesis.category import MARKER, synthesize_category
from pipelines.compute.signals import process_pool
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import Plan, SyntheticSet

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    wanted: SyntheticSet
    data: Path
    folder: Path

    @property
    def name(self) -> str:
        return self.wanted.name

    def is_done(self) -> bool:
        marker = self.folder / MARKER
        return marker.is_file() and read_json(marker)["key"] == self.wanted.key

    def run(self) -> None:
        synthesize_category(self.data, self.wanted.rows, self.wanted.params, self.folder)

    def summary(self) -> str:
        made = read_json(self.folder / MARKER)
        return f"{made['train']} train / {made['holdout']} held-out anomalies on the {made['foreground']}"


def run(params: Params, dataset: str, workspace: Workspace) -> None:
    """Bring ``synthetic/<dataset>`` of the workspace up to date, categories side by side, with a line for each.

    A category, or a variant of it with another synthesis, whose key is unchanged is not touched. A relative texture
    folder is one in the workspace.

    Raises:
        ParameterError: the parameters do not describe the dataset.
        DataError: see `clflow.synthesis.category.synthesize_category`; the categories that succeed are kept.
    """
    plan = Plan(params, dataset, workspace)
    sweep(workspace.synthetic(dataset))
    due = []
    for name, wanted in plan.synthetic.items():
        job = _Job(wanted, workspace.data(dataset), workspace.synthetic(dataset, name))
        if job.is_done():
            _log.info("  %s: %s, unchanged", name, job.summary())
        else:
            due.append(job)
    _run_all(dataset, due)


def _run_all(dataset: str, jobs: list[_Job]) -> None:
    workers = min(len(jobs), len(os.sched_getaffinity(0)))
    if workers <= 1:
        _collect(dataset, ((job, job.run) for job in jobs))
        return
    with process_pool(workers) as pool:
        futures = {pool.submit(job.run): job for job in jobs}
        _collect(dataset, ((futures[future], future.result) for future in as_completed(futures)))


def _collect(dataset: str, outcomes: Iterable[tuple[_Job, Callable[[], None]]]) -> None:
    """Wait for each job and say its outcome; raise at the end, so that one failure stops no other job."""
    failures = []
    for job, finish in outcomes:
        try:
            finish()
        except ClflowError as error:
            failures.append(f"{dataset}/{job.name}: {error}")
        except Exception as error:
            error.add_note(f"while synthesizing {dataset}/{job.name}")
            raise
        else:
            _log.info("  %s: %s", job.name, job.summary())
    if failures:
        more = f" ({len(failures) - 1} more categories failed)" if len(failures) > 1 else ""
        raise DataError(f"{failures[0]}{more}")
