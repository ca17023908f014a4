"""Stage `synthesize`: synthetic anomalies of every category of a dataset, made anew only where something changed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clflow.config.params import Params
from clflow.data.manifest import category_rows, read_manifest
from clflow.errors import ClflowError, DataError, ParameterError
from clflow.files import prune, read_json
from clflow.synthesis.category import MARKER, synthesis_key, synthesize_category


@dataclass(frozen=True)
class _Job:
    name: str
    data: Path
    rows: pd.DataFrame
    params: Params
    folder: Path

    def is_done(self) -> bool:
        marker = self.folder / MARKER
        return marker.is_file() and read_json(marker)["key"] == synthesis_key(self.rows, self.params)

    def run(self) -> None:
        synthesize_category(self.data, self.rows, self.params, self.folder)

    def summary(self) -> str:
        made = read_json(self.folder / MARKER)
        return f"{made['train']} train / {made['holdout']} held-out anomalies on the {made['foreground']}"


def run(params: Params, dataset: str, workspace: Path) -> None:
    """Bring ``synthetic/<dataset>`` of the workspace up to date, categories side by side; print a line for each.

    A category, or a variant of it with another synthesis, whose key is unchanged is not touched, one that is no
    longer asked for is removed. A relative texture folder is one in the workspace.

    Raises:
        ParameterError: the parameters do not describe the dataset.
        DataError: see `clflow.synthesis.category.synthesize_category`; the categories that succeed are kept.
    """
    if dataset not in params.data:
        raise ParameterError(f"The parameters do not describe dataset {dataset!r}; add it under data.")
    categories = params.data[dataset].categories
    folder = workspace / "synthetic" / dataset
    manifest = read_manifest(workspace / "data" / dataset)
    methods = dict.fromkeys((params.tune.method, *params.benchmark.methods))
    wanted = {params.synthetic_set(c, method): (c, method) for c in categories for method in methods}
    prune(folder, set(wanted))
    jobs = [_job(params, dataset, *wanted[name], name, manifest, workspace) for name in wanted]
    due = []
    for job in jobs:
        if job.is_done():
            print(f"  {job.name}: {job.summary()}, unchanged")
        else:
            due.append(job)
    _run_all(dataset, due)


def _job(
    params: Params, dataset: str, category: str, method: str, name: str, manifest: pd.DataFrame, workspace: Path
) -> _Job:
    own = params.for_category(dataset, category, method)
    if own.synthesis.textures is not None:
        textures = str(workspace / Path(own.synthesis.textures).expanduser())
        own = own.model_copy(update={"synthesis": own.synthesis.model_copy(update={"textures": textures})})
    rows = category_rows(manifest, category, "train")
    normal = rows.loc[rows["label"] == 0].reset_index(drop=True)
    return _Job(name, workspace / "data" / dataset, normal, own, workspace / "synthetic" / dataset / name)


def _run_all(dataset: str, jobs: list[_Job]) -> None:
    workers = min(len(jobs), len(os.sched_getaffinity(0)))
    if workers <= 1:
        _collect(dataset, ((job, job.run) for job in jobs))
        return
    # Forking a process that runs threads (OpenCV, Ray) can deadlock.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(job.run): job for job in jobs}
        _collect(dataset, ((futures[future], future.result) for future in as_completed(futures)))


def _collect(dataset: str, outcomes: Iterable[tuple[_Job, Callable[[], None]]]) -> None:
    """Wait for each job and say what came of it; complain at the end, so that one failure stops no other job."""
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
            print(f"  {job.name}: {job.summary()}", flush=True)
    if failures:
        more = f" ({len(failures) - 1} more categories failed)" if len(failures) > 1 else ""
        raise DataError(f"{failures[0]}{more}")
