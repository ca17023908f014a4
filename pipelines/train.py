"""Stage ``train``: one Ray Train job per cell, as many at once as fit, each in a folder of its own."""

from __future__ import annotations

import shutil
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from clflow.data.fetch import cache_folder
from clflow.data.manifest import category_rows, data_hash, read_manifest
from clflow.errors import CellError
from clflow.files import folder_atomically, prune, write_json
from clflow.fit import FLOW_FILE
from clflow.params import Params
from clflow.provenance import commit
from pipelines import cells, cluster
from pipelines.cells import Cell
from pipelines.progress import Board
from pipelines.tracking import Tracker
from pipelines.worker import DETECTOR


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
    tracker = Tracker.connect(params, workspace)
    failures: dict[Cell, Path] = {}
    if todo:
        with cluster.session(params.resources):
            failures = _train(in_order(todo), params, workspace, tracker)
    tracker.sync([cell for cell in wanted if cell not in failures], workspace)
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


def _train(todo: list[Cell], params: Params, workspace: Path, tracker: Tracker) -> dict[Cell, Path]:
    slots = cluster.concurrent_cells(params.resources)
    storage = cluster.storage_path(params.resources, workspace)
    events = Queue(actor_options={"num_cpus": 0})
    failures: dict[Cell, Path] = {}
    pool = ThreadPoolExecutor(slots)
    with ExitStack() as stack:
        # Not waiting: after Ctrl-C the threads end when Ray does.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        headings = ("dataset", "category", "method", "seed")
        board = stack.enter_context(Board(headings, len(todo), workspace / ".clflow" / "logs"))
        by_name = {cell.name: cell for cell in todo}
        running: dict[Future[ray.train.Result], Cell] = {}
        for cell in todo:
            board.add(cell.name, (cell.dataset, cell.category, cell.method, str(cell.seed)))
            running[pool.submit(_fit_cell, cell, params, workspace, storage, events)] = cell
        while running:
            done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            for name, point in _drain(events):
                board.progress(name, point)
                tracker.log_point(by_name[name], point)
            for future in done:
                cell = running.pop(future)
                try:
                    _keep(
                        cell, future.result(), params.for_category(cell.dataset, cell.category, cell.method), workspace
                    )
                except Exception as error:  # whatever a cell died of, the others go on
                    failures[cell] = board.failed(cell.name, error)
                    tracker.log_failure(cell, failures[cell])
                else:
                    board.finished(cell.name)
                    shutil.rmtree(Path(storage) / cell.name, ignore_errors=True)
    return failures


def _drain(events: Queue) -> list[tuple[str, dict[str, float]]]:
    return events.get_nowait_batch(events.qsize())


def _fit_cell(cell: Cell, params: Params, workspace: Path, storage: str, events: Queue) -> ray.train.Result:
    """Run one cell as a Ray Train job. Its name holds the cell key, so a run cut short is resumed by the next."""
    resources, given = params.resources, params.for_category(cell.dataset, cell.category, cell.method)
    per_worker = cluster.worker_resources(resources)

    def train(config: dict[str, Any]) -> dict[str, Any]:
        # Ray sends a nested function by value, so its controller, which only passes it on, needs none of our imports.
        from pipelines.worker import train_cell

        return train_cell(config)

    trainer = TorchTrainer(
        train,
        train_loop_config={
            "name": cell.name,
            "dataset": cell.dataset,
            "category": cell.category,
            "method": cell.method,
            "seed": cell.seed,
            "params": given.model_dump_json(),
            "workspace": str(workspace),
            "cache": str(cache_folder() / "features"),
            "events": events,
        },
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_cell, use_gpu="GPU" in per_worker, resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            name=cell.name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=resources.attempts - 1, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=None if given.train.keep_reports else 1),
        ),
    )
    return trainer.fit()


def _keep(cell: Cell, result: ray.train.Result, params: Params, workspace: Path) -> None:
    """Make the cell's folder from what the job left; it appears whole or not at all."""
    assert result.checkpoint is not None and result.return_value is not None, "a finished job has both"
    outcome = result.return_value
    rows = category_rows(read_manifest(workspace / "data" / cell.dataset), cell.category, "train")
    with (
        result.checkpoint.as_directory() as checkpoint,
        folder_atomically(workspace / "runs" / cell.dataset / cell.name) as folder,
    ):
        shutil.copytree(Path(checkpoint) / DETECTOR, folder, dirs_exist_ok=True)
        if params.train.keep_reports:
            _keep_reports(result, folder / cells.REPORTS)
        pd.DataFrame(outcome["history"]).to_csv(folder / "history.csv", index=False)
        pd.DataFrame(outcome["held_out"]).to_csv(folder / "held_out.csv", index=False)
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
            "train_seconds": outcome["history"][-1]["seconds"],
            "params_added": outcome["params_added"],
            "image_threshold": outcome["thresholds"]["image"],
            "pixel_threshold": outcome["thresholds"]["pixel"],
            "typical_score": outcome["thresholds"]["typical"],
        }
        write_json(folder / cells.MARKER, record)


def _keep_reports(result: ray.train.Result, folder: Path) -> None:
    """Keep the flow's weights of every checkpoint; a method without a flow has none."""
    folder.mkdir()
    for checkpoint, point in result.best_checkpoints or []:
        with checkpoint.as_directory() as saved:
            weights = Path(saved) / FLOW_FILE
            if weights.exists():
                shutil.copy(weights, folder / f"{int(point['step'])}.safetensors")
