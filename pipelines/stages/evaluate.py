"""Stage ``evaluate``: score every test image with every trained cell; the backbone sees an image once per category."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import ray
import torch
from ray.exceptions import RayTaskError
from safetensors import SafetensorError
from safetensors.torch import load_file

from clflow.config.params import Params
from clflow.data.manifest import category_rows, data_hash, read_manifest
from clflow.errors import CellError, ClflowError, DataError
from clflow.files import folder_atomically, prune, read_json, write_json
from clflow.methods import load_detector
from clflow.model.detector import Detector, FlowScorer
from clflow.provenance import source_hash
from clflow.score import image_batches
from pipelines.compute import cluster
from pipelines.workspace import cells
from pipelines.workspace.cells import Cell

CODE = ("methods", "model", "features", "chunks.py", "randomness.py", "score.py", "data/images.py", "data/manifest.py")
_BATCH = 16


def run(params: Params, dataset: str, workspace: Path) -> None:
    """Score the test images of a dataset with those cells that have no scores of them yet.

    Raises:
        CellError: a cell is not trained.
        DataError: an image or a cell is damaged.
    """
    wanted = cells.plan(params, workspace, (dataset,))
    untrained = [c.name for c in wanted if not cells.is_complete(workspace / "runs" / dataset / c.name, c.key)]
    if untrained:
        raise CellError(f"{len(untrained)} cells of {dataset} are not trained ({', '.join(untrained[:3])}); run train.")
    folder = workspace / "scores" / dataset
    folder.mkdir(parents=True, exist_ok=True)
    prune(folder, {cell.name for cell in wanted})
    manifest = read_manifest(workspace / "data" / dataset)
    todo: dict[str, list[Cell]] = {}
    for cell in wanted:
        test_hash = data_hash(category_rows(manifest, cell.category, "test"))
        if not _is_current(folder / cell.name, cell, test_hash):
            todo.setdefault(cell.category, []).append(cell)
    if not todo:
        return
    with cluster.session(params.resources):
        cluster.concurrent_cells(params.resources)
        score = ray.remote(**cluster.worker_options(params.resources))(_score_category)
        pending = {score.remote(todo[c], workspace, params.resources.cpus_per_worker): c for c in todo}
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            try:
                seconds = ray.get(done)
            except RayTaskError as error:
                if isinstance(error.cause, ClflowError):
                    raise error.cause from None  # without the trace that Ray puts before what was said
                raise
            category = pending.pop(done)
            print(f"{dataset} {category}: {len(todo[category])} cells scored in {seconds:.1f} s", flush=True)


def _is_current(folder: Path, cell: Cell, test_hash: str) -> bool:
    if not cells.is_complete(folder, cell.key, cells.SCORED):
        return False
    record = read_json(folder / cells.SCORED)
    return record["test_hash"] == test_hash and record["code"] == source_hash(*CODE)


def _score_category(todo: list[Cell], workspace: Path, threads: int) -> float:
    """Score one category's test images with its cells; returns seconds."""
    begin = time.perf_counter()
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = workspace / "data" / todo[0].dataset
    rows = category_rows(read_manifest(data), todo[0].category, "test")
    detectors: list[Detector] = []
    for cell in todo:
        shared = {detector.features for detector in detectors}
        detectors.append(load_detector(workspace / "runs" / cell.dataset / cell.name, shared).to(device))
    extractors = {detector.features for detector in detectors}
    kept = [_kept_scorers(workspace / "runs" / c.dataset / c.name, d) for c, d in zip(todo, detectors, strict=True)]
    maps: list[list[np.ndarray]] = [[] for _ in todo]
    image_scores: list[list[np.ndarray]] = [[] for _ in todo]
    by_step: list[dict[int, list[np.ndarray]]] = [{step: [] for step in scorers} for scorers in kept]
    spent: defaultdict[object, float] = defaultdict(float)  # seconds, by features and by cell
    with torch.inference_mode():
        for number, images in enumerate(
            image_batches([data / path for path in rows["path"]], detectors[0].image_size, _BATCH)
        ):
            if number == 0:  # on first use kernels are loaded and chosen, which no method is to be charged with
                features = {shared: shared.of_images(images.to(device)) for shared in extractors}
                for detector in detectors:
                    detector.scorer(features[detector.features])
            features = {}
            for shared in extractors:
                with _counted(spent, shared, device):
                    features[shared] = shared.of_images(images.to(device))
            for i, detector in enumerate(detectors):
                with _counted(spent, todo[i], device):
                    batch, scores = detector.scorer(features[detector.features])
                maps[i].append(batch.cpu().numpy())
                image_scores[i].append(scores.cpu().numpy())
                for step, scorer in kept[i].items():
                    by_step[i][step].append(scorer(features[detector.features])[1].cpu().numpy())
    seconds = time.perf_counter() - begin
    for i, cell in enumerate(todo):
        with folder_atomically(workspace / "scores" / cell.dataset / cell.name) as folder:
            table = rows[["path", "label", "defect", "mask"]].assign(image_score=np.concatenate(image_scores[i]))
            table.to_csv(folder / "scores.csv", index=False)
            np.save(folder / "maps.npy", np.concatenate(maps[i]).astype(np.float32))
            if by_step[i]:
                columns = {step: np.concatenate(scores) for step, scores in sorted(by_step[i].items())}
                pd.DataFrame(columns).to_csv(folder / cells.EVAL_SCORES, index=False)
            write_json(
                folder / cells.SCORED,
                {
                    "key": cell.key,
                    "test_hash": data_hash(rows),
                    "code": source_hash(*CODE),
                    "inference_ms": 1000 * (spent[detectors[i].features] + spent[cell]) / len(rows),
                },
            )
    return seconds


def _kept_scorers(folder: Path, detector: Detector) -> dict[int, FlowScorer]:
    """The detector's scorer with the weights of each evaluation, by step, where the cell has kept them.

    Raises:
        DataError: a file of them is damaged.
    """
    scorers: dict[int, FlowScorer] = {}
    for path in (folder / cells.EVAL_WEIGHTS).glob("*.safetensors"):
        scorer = copy.deepcopy(detector.scorer)
        assert isinstance(scorer, FlowScorer), "only weights of flows are kept"
        try:
            scorer.flows.load_state_dict(load_file(path))
        except SafetensorError as error:
            raise DataError(f"{path} is damaged ({error}); remove {folder} and train its cell again.") from None
        scorers[int(path.stem)] = scorer
    return scorers


@contextmanager
def _counted(spent: defaultdict[object, float], what: object, device: torch.device) -> Iterator[None]:
    """Add the seconds inside to what was spent on something."""
    begin = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    spent[what] += time.perf_counter() - begin
