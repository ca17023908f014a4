"""Stage ``train``: as many slots as fit, each a Ray Train job that trains one cell after another; each cell in a folder
of its own."""

from __future__ import annotations

import shutil
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray

from clflow.config.params import Params
from clflow.data.manifest import category_rows, data_hash, read_manifest
from clflow.errors import CellError
from clflow.files import folder_atomically, prune, read_json, write_json
from clflow.provenance import commit
from clflow.training.loop import FLOWS_FILE
from pipelines.compute import cluster
from pipelines.compute.checkpoints import Checkpoints
from pipelines.compute.job import run_slot
from pipelines.compute.progress import Board
from pipelines.compute.queue import Dispatcher
from pipelines.compute.worker import FINISHED, OUTCOME
from pipelines.tracking.tracker import Tracker
from pipelines.workspace import cells
from pipelines.workspace.cells import Cell


def run(params: Params, dataset: str, workspace: Path) -> None:
    """Train the cells of a dataset that are missing, and remove those no longer asked for.

    Raises:
        CellError: cells failed after all attempts; the sentence names them and their logs. The others are complete.
    """
    wanted = cells.plan(params, workspace, (dataset,))
    folder = workspace / "runs" / dataset
    folder.mkdir(parents=True, exist_ok=True)
    prune(folder, {cell.name for cell in wanted})
    todo = missing(wanted, workspace)
    failures: dict[Cell, Path] = {}
    with ThreadPoolExecutor(1) as aside:  # opening MLflow's database takes seconds, in which Ray and its workers start
        tracker = aside.submit(Tracker.connect, params, workspace)
        if todo:
            with cluster.session(params.resources):
                failures = _train(in_order(todo), params, workspace, tracker)
    tracker.result().sync([cell for cell in wanted if cell not in failures], workspace)
    if failures:
        logs = "; ".join(f"{cell.name} (log: {log})" for cell, log in failures.items())
        raise CellError(f"{len(failures)} of {len(wanted)} cells of {dataset} failed, the others are complete: {logs}")


def describe(params: Params, dataset: str, workspace: Path) -> list[str]:
    """The plan in words: what would be trained, and in which order, without doing anything."""
    wanted = cells.plan(params, workspace, (dataset,))
    todo = in_order(missing(wanted, workspace))
    lines = [f"{dataset}: {len(wanted)} cells, {len(wanted) - len(todo)} complete, {len(todo)} to train"]
    return lines + [f"  {cell.name} ({cell.train_images} normal images)" for cell in todo]


def missing(wanted: list[Cell], workspace: Path) -> list[Cell]:
    """The cells that have no complete folder."""
    return [c for c in wanted if not cells.is_complete(workspace / "runs" / c.dataset / c.name, c.key)]


def in_order(todo: list[Cell]) -> list[Cell]:
    """Largest category first, but one cell of every category before the second of any: they share cached features,
    which the first computes."""
    rounds: dict[str, int] = {}
    ranked = []
    for cell in todo:
        rounds[cell.category] = rounds.get(cell.category, -1) + 1
        ranked.append((rounds[cell.category], -cell.train_images, cell))
    return [cell for _, _, cell in sorted(ranked, key=lambda entry: entry[:2])]


def _train(todo: list[Cell], params: Params, workspace: Path, tracker: Future[Tracker]) -> dict[Cell, Path]:
    """Train cells in as many slots as there is room for; returns those that failed, with their logs."""
    begin, at_work = time.perf_counter(), 0.0
    slots = min(cluster.concurrent_cells(params.resources), len(todo))
    storage = cluster.storage_path(params.resources, workspace)
    by_name = {cell.name: cell for cell in todo}
    dispatcher: Any = ray.remote(num_cpus=0)(Dispatcher).remote([*by_name], params.resources.attempts)
    failures: dict[Cell, Path] = {}
    with ExitStack() as stack:
        headings = ("dataset", "category", "method", "seed")
        board = stack.enter_context(Board(headings, len(todo), slots, workspace / ".clflow" / "logs"))
        for cell in todo:
            board.add(cell.name, (cell.dataset, cell.category, cell.method, str(cell.seed)))

        def fail(cell: Cell, reason: str) -> None:
            failures[cell] = board.failed(cell.name, reason)
            tracker.result().log_failure(cell, failures[cell])

        def finish(cell: Cell, seconds: float) -> None:
            nonlocal at_work
            at_work += seconds
            try:
                _keep(cell, params.for_category(cell.dataset, cell.category, cell.method), storage, workspace)
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
                if message.kind == "point":
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
    print(
        f"{len(todo)} cells in {seconds:.0f} s; slots trained for {share:.0%} of it, the rest was starting and waiting"
    )
    return failures


def _keep(cell: Cell, params: Params, storage: str, workspace: Path) -> None:
    """Make the cell's folder from its checkpoints; it appears whole or not at all, and they vanish."""
    checkpoints = Checkpoints(storage, cell.name)
    rows = category_rows(read_manifest(workspace / "data" / cell.dataset), cell.category, "train")
    with (
        checkpoints.read(FINISHED) as finished,
        folder_atomically(workspace / "runs" / cell.dataset / cell.name) as folder,
    ):
        shutil.copytree(finished, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(OUTCOME))
        if params.train.keep_eval_weights:
            _keep_eval_weights(checkpoints, folder / cells.EVAL_WEIGHTS)
        record = {
            "dataset": cell.dataset,
            "category": cell.category,
            "method": cell.method,
            "seed": cell.seed,
            "key": cell.key,
            "commit": commit(),
            "data_hash": data_hash(rows),
            "synthetic_hash": cells.synthetic_hash(workspace, cell.dataset, cell.category),
            "tuned": params.is_tuned_alone(cell.dataset, cell.category, cell.method),
            "protocol": params.protocol.model_dump(mode="json"),
            "model": params.model.model_dump(mode="json"),
            "loss": params.loss.model_dump(mode="json"),
            "train": params.train.model_dump(mode="json"),
            "train_images": cell.train_images,
            **read_json(finished / OUTCOME),
        }
        write_json(folder / cells.MARKER, record)
    checkpoints.clear()


def _keep_eval_weights(checkpoints: Checkpoints, folder: Path) -> None:
    """Keep the flow's weights of every evaluation; a method without a flow has none."""
    folder.mkdir()
    for name in checkpoints.names():
        with checkpoints.read(name) as saved:
            if (saved / FLOWS_FILE).exists():
                shutil.copy(saved / FLOWS_FILE, folder / f"{int(name)}.safetensors")
