"""Stage ``train``: as many slots as fit, each a Ray Train job that trains one cell after another; each cell in a folder
of its own."""

from __future__ import annotations

import logging
import shlex
import shutil
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from clflow.calibration import images_needed
from clflow.config.params import Params
from clflow.errors import CellError, DataError
from clflow.files import folder_atomically, read_json, sweep, write_json
from clflow.provenance import commit
from clflow.synthesis.category import MARKER
from clflow.training.checkpoints import FLOWS_FILE
from clflow.training.outcome import OUTCOME_FILE
from pipelines.compute import cluster
from pipelines.compute.checkpoints import FINISHED, Checkpoints
from pipelines.compute.job import run_slot
from pipelines.compute.progress import Board
from pipelines.compute.queue import Dispatcher
from pipelines.tracking.tracker import Tracker
from pipelines.workspace.cells import ALL, EVAL_WEIGHTS, Cell, Selection
from pipelines.workspace.cells import MARKER as CELL_MARKER
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import Plan
from pipelines.workspace.results import is_trained, read_cell

_log = logging.getLogger(__name__)


def run(params: Params, dataset: str, workspace: Workspace, selection: Selection = ALL) -> None:
    """Train the selected cells of a dataset that are missing. Cells that are no longer asked for stay.

    Raises:
        CellError: cells failed after all attempts; the sentence names them and their logs. The others are complete.
        DataError: the synthetic anomalies are not those of the plan.
        WeightsError: pretrained weights are unavailable.
    """
    plan = Plan(params, dataset, workspace)
    sweep(workspace.runs(dataset))
    wanted = selection.of(plan.cells)
    todo = missing(wanted, workspace)
    _require_synthetic(plan, todo)
    plan.require_weights((cell.category, cell.method) for cell in todo)
    failures: dict[Cell, Path] = {}
    with ThreadPoolExecutor(1) as aside:  # opening MLflow's database takes seconds, in which Ray and its workers start
        tracker = aside.submit(Tracker.connect, params, workspace)
        if todo:
            with cluster.session(params.resources):
                failures = _train(in_order(todo), plan, tracker)
    tracker.result().sync([cell for cell in wanted if cell not in failures], workspace)
    for line in _uncalibrated([cell for cell in todo if cell not in failures], params, workspace):
        _log.warning(line)
    if failures:
        logs = "; ".join(f"{cell.name} (log: {log})" for cell, log in failures.items())
        raise CellError(f"{len(failures)} of {len(wanted)} cells of {dataset} failed, the others are complete: {logs}")


def missing(wanted: list[Cell], workspace: Workspace) -> list[Cell]:
    """The cells that have no complete folder."""
    return [cell for cell in wanted if not is_trained(cell, workspace)]


def in_order(todo: list[Cell]) -> list[Cell]:
    """Largest category first, but one cell of every category before the second of any: they share cached features,
    which the first computes."""
    rounds: dict[str, int] = {}
    ranked = []
    for cell in todo:
        rounds[cell.category] = rounds.get(cell.category, -1) + 1
        ranked.append((rounds[cell.category], -cell.train_images, cell))
    return [cell for _, _, cell in sorted(ranked, key=lambda entry: entry[:2])]


def _uncalibrated(trained: list[Cell], params: Params, workspace: Workspace) -> list[str]:
    """A sentence for each category whose calibration images are too few for the false alarm rate that was asked for."""
    asked = params.protocol.false_alarm_rate
    fewest: dict[str, tuple[int, float]] = {}
    for cell in trained:
        record = read_cell(cell, workspace)
        images, rate = record["calibration_images"], record["expected_false_alarm_rate"]
        if images < images_needed(asked):
            fewest[cell.category] = min(fewest.get(cell.category, (images, rate)), (images, rate))
    return [
        f"{category}: {images} calibration images keep a false alarm rate of {rate:.1%}, not "
        f"{asked:.1%} (protocol.false_alarm_rate), for which {images_needed(asked)} normal images are needed"
        for category, (images, rate) in fewest.items()
    ]


def _require_synthetic(plan: Plan, todo: list[Cell]) -> None:
    """Make sure that the synthetic anomalies are those that the keys name.

    Raises:
        DataError: they are not.
    """
    for cell in todo:
        name = plan.params.synthetic_set(cell.category, cell.method)
        marker = plan.workspace.synthetic(plan.dataset, name) / MARKER
        if not marker.exists() or read_json(marker)["key"] != plan.synthetic[name].key:
            raise DataError(
                f"the synthetic anomalies of {plan.dataset}/{name} are missing or are not those of the plan; run "
                f"`clflow synthesize --dataset {plan.dataset}` first."
            )


def _train(todo: list[Cell], plan: Plan, tracker: Future[Tracker]) -> dict[Cell, Path]:
    """Train cells in as many slots as there is room for; returns those that failed, with their logs."""
    params, workspace = plan.params, plan.workspace
    begin, at_work = time.perf_counter(), 0.0
    slots = min(cluster.concurrent_cells(params.resources), len(todo))
    storage = cluster.storage_path(params.resources, workspace)
    by_name = {cell.name: cell for cell in todo}
    dispatcher: Any = ray.remote(num_cpus=0)(Dispatcher).remote([*by_name], params.resources.attempts)
    failures: dict[Cell, Path] = {}
    with ExitStack() as stack:
        headings = ("dataset", "category", "method", "seed")
        board = stack.enter_context(Board(headings, len(todo), slots, workspace.log))
        log = shlex.quote(str(workspace.log(todo[0].name)))
        _log.info("%d cells to train, %d at once; each has a log: tail -f %s", len(todo), slots, log)
        for cell in todo:
            board.add(cell.name, (cell.dataset, cell.category, cell.method, str(cell.seed)))
            workspace.failure(cell).unlink(missing_ok=True)

        def fail(cell: Cell, reason: str) -> None:
            failures[cell] = board.failed(cell.name, reason)
            write_json(workspace.failure(cell), {"reason": reason.strip().splitlines()[-1]})
            tracker.result().log_failure(cell, failures[cell])

        def finish(cell: Cell, seconds: float) -> None:
            nonlocal at_work
            at_work += seconds
            try:
                _keep(cell, plan, storage)
            except Exception:  # a full disk, say; the others go on
                fail(cell, traceback.format_exc())
            else:
                board.finished(cell.name)
                tracker.result().log_training(cell, workspace)

        pool = ThreadPoolExecutor(slots)
        # Not waiting: after Ctrl-C the threads end when Ray does.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        jobs = [pool.submit(run_slot, i, todo, params, workspace, storage, dispatcher) for i in range(slots)]
        running = set(jobs)
        while running:
            _, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for message in ray.get(dispatcher.messages.remote()):
                cell = by_name[message.cell]
                if message.kind == "line":
                    board.note(cell.name, message.content)
                elif message.kind == "point":
                    board.progress(cell.name, message.content)
                    tracker.result().log_point(cell, message.content)
                elif message.kind == "failed":
                    fail(cell, message.content)
                else:
                    finish(cell, message.content)
        # A slot may have been lost with its cell, and all of them with cells that waited.
        errors = [f"{type(error).__name__}: {error}" for job in jobs if (error := job.exception())]
        for cell in missing(todo, workspace):
            if cell not in failures:
                fail(cell, "\n".join(errors))
    seconds = time.perf_counter() - begin
    share = at_work / (slots * seconds)
    _log.info(
        "%d cells in %.0f s; slots trained for %.0f%% of it, the rest was starting and waiting",
        len(todo),
        seconds,
        100 * share,
    )
    return failures


def _keep(cell: Cell, plan: Plan, storage: str) -> None:
    """Make the cell's folder from its checkpoints; it appears whole or not at all, and they vanish."""
    checkpoints, params = Checkpoints(storage, cell.name), plan.params
    inputs = plan.trained[cell]
    with checkpoints.read(FINISHED) as finished, folder_atomically(plan.workspace.run(cell)) as folder:
        shutil.copytree(finished, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(OUTCOME_FILE))
        if params.for_category(cell.dataset, cell.category, cell.method).train.keep_eval_weights:
            _keep_eval_weights(checkpoints, folder / EVAL_WEIGHTS)
        record = {
            **asdict(cell),
            "commit": commit(),
            "data_hash": inputs["data"],
            "synthetic_hash": inputs["synthetic"],
            "tuned": params.is_tuned_alone(cell.dataset, cell.category, cell.method),
            "protocol": params.protocol.model_dump(mode="json"),
            "inputs": inputs,
            **read_json(finished / OUTCOME_FILE),
        }
        write_json(folder / CELL_MARKER, record)
    checkpoints.clear()


def _keep_eval_weights(checkpoints: Checkpoints, folder: Path) -> None:
    """Keep the flow's weights of every evaluation; a method without a flow has none."""
    folder.mkdir()
    for name in checkpoints.names():
        with checkpoints.read(name) as saved:
            if (saved / FLOWS_FILE).exists():
                shutil.copy(saved / FLOWS_FILE, folder / f"{int(name)}.safetensors")
