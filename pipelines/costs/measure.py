"""What the bench measures; each function is meant for a process of its own."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from clflow.config.params import Params
from clflow.data.images import read_image
from clflow.data.manifest import category_rows, read_manifest, write_manifest
from clflow.errors import DataError
from clflow.export import Format, Graph, Inspect, Inspection, export, load
from clflow.features.backbone import Backbone, pretrained_model
from clflow.features.extraction import Levels, scaled
from clflow.features.weights import Weights, find_weights
from clflow.features.zoo import import_timm
from clflow.methods.loading import load_detector
from clflow.methods.registry import find_method
from clflow.metrics import image_metrics
from clflow.model.detector import Detector
from clflow.synthesis.category import synthesize_category
from clflow.training.data import FitData
from clflow.training.validation import VALIDATION
from clflow.training.worker import Worker, run
from pipelines.compute.worker import category_files, load_category
from pipelines.workspace.paths import Workspace

BATCHES = (1, 8, 32)
UNCUT = "eager, uncut"
"""The runtime of a peer as anomalib runs it: all stages of the backbone, used or not, with batch norms of their own."""

REDUCED = "openvino bfloat16"
"""The runtime that does not compute in float32."""

WARM_UP_S, MEASURED_S = 0.5, 1.5
"""Seconds that each size of batch is run for."""

_CPU = torch.device("cpu")
_EPOCHS = "anomalib-fastflow"  # the one whose steps are epochs over the images


@dataclass(frozen=True)
class Engine:
    """Something that scores images.

    Attributes:
        method: a method, or ``backbone`` for that of one alone.
        runtime: eager, `UNCUT`, compiled, a format of `clflow.export`, or `REDUCED`.
        folder: of the detector, or of the graph.
    """

    method: str
    runtime: str
    folder: Path


@dataclass(frozen=True)
class Job:
    """What one process synthesizes and trains, a cell for each category and seed.

    Attributes:
        every: one in so many of the normal training images is used.
    """

    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    image_size: int
    every: int = 1


@dataclass(frozen=True)
class Case:
    """A cell to train without the workflow around it.

    Attributes:
        params: of the benchmark.
        workspace: with its data and synthetic anomalies.
        cache: of features; those of an earlier training that saw the same are read from it.
    """

    params: Params
    dataset: str
    category: str
    method: str
    seed: int
    workspace: Workspace
    cache: Path

    @property
    def given(self) -> Params:
        """The parameters as they hold for it."""
        return self.params.for_category(self.dataset, self.category, self.method)


@dataclass(frozen=True)
class Trained:
    """A cell trained in this process: its detector, its learning curves, what it was trained on, and the seconds that
    loading that, features among it, and the training itself took."""

    detector: Detector
    history: list[dict[str, float]]
    data: FitData
    features_s: float
    fit_s: float


@dataclass(frozen=True)
class Images:
    """Test images, uint8 (N, S, S, 3), and their labels (N,)."""

    pixels: np.ndarray
    labels: np.ndarray


def test_images(params: Params, dataset: str, category: str, workspace: Workspace) -> Images:
    """All test images of a category, as detectors see them.

    Raises:
        DataError: it has none.
    """
    data = workspace.data(dataset)
    rows = category_rows(read_manifest(data), category, "test")
    if rows.empty:
        raise DataError(f"{dataset}/{category} has no test images, on which inference is measured; name another one.")
    pixels = [read_image(data / path, params.protocol.image_size) for path in rows["path"]]
    return Images(np.stack(pixels), rows["label"].to_numpy())


def train_alone(case: Case, device: torch.device, clock: Callable[[], float]) -> Trained:
    """Train a cell in this process; its seconds are those of the clock."""
    given = case.given
    begin = clock()
    files = category_files(given, case.dataset, case.category, case.method, case.workspace)
    features, data = load_category(given, case.method, files, case.cache, device)
    cached = clock()
    training = find_method(case.method).fit(features, data, given, case.seed, Worker.single(device))
    detector, history = run(training, lambda point, save: None)
    return Trained(detector, history, data, cached - begin, clock() - cached)


def train(case: Case, folder: Path, threads: int) -> dict[str, Any]:
    """Train a cell, keep its detector in ``folder``, and say what it took in CPU seconds."""
    torch.set_num_threads(threads)
    trained = train_alone(case, _CPU, time.process_time)
    folder.mkdir()
    trained.detector.save(folder)
    data = trained.data
    images = len(data.normal) + len(data.held_out_normal) + len(data.synthetic) + len(data.held_out_synthetic)
    normal_s = trained.features_s * len(data.normal) / images
    steps = int(trained.history[-1]["step"])
    return {
        "method": case.method,
        "seed": case.seed,
        "features_cpu_s": trained.features_s,
        "fit_cpu_s": trained.fit_s,
        "without_cache_cpu_s": trained.fit_s + steps * normal_s if case.method == _EPOCHS else None,
        "steps": steps,
        "params_added": trained.detector.parameter_count(),
        "validation": max(point[VALIDATION] for point in trained.history),
        "images": images,
        "cache_mb": images * data.normal[0].nbytes / 1e6,
    }


def grow(params: Params, dataset: str, method: str, job: Job, workspace: Workspace, threads: int) -> dict[str, Any]:
    """Synthesize and train all cells of a job, score the test images of its first category by the first of them, and
    say what each took."""
    params = params.model_copy(update={"protocol": params.protocol.model_copy(update={"image_size": job.image_size})})
    images = test_images(params, dataset, job.categories[0], workspace)
    synthesis_cpu_s, cells = 0.0, []
    with tempfile.TemporaryDirectory() as name:
        scratch = Workspace(Path(name))
        data = scratch.data(dataset)
        manifest = _thinned(workspace.data(dataset), job, data)
        for category in job.categories:
            given = params.for_category(dataset, category, method)
            synthetic = scratch.synthetic(dataset, given.synthetic_set(category, method))
            begin = time.process_time()
            synthesize_category(data, category_rows(manifest, category, "train"), given, synthetic)
            synthesis_cpu_s += time.process_time() - begin
            for seed in job.seeds:
                case = Case(params, dataset, category, method, seed, scratch, scratch.root / "cache")
                cells.append(train(case, scratch.root / f"detector-{len(cells)}", threads))
        inferred = infer(Engine(method, "eager", scratch.root / "detector-0"), images, threads)
    first = cells[:: len(job.seeds)]  # of each category: it made the features that its other seeds read
    return {
        "method": method,
        **asdict(job),
        "normal": len(manifest),
        "synthetic": len(job.categories) * (params.synthesis.count + params.synthesis.held_out),
        "images": sum(cell["images"] for cell in first),
        "synthesis_cpu_s": synthesis_cpu_s,
        "features_cpu_s": sum(cell["features_cpu_s"] for cell in cells),
        "fit_cpu_s": sum(cell["fit_cpu_s"] for cell in cells),
        "inference_ms": inferred["cpu_ms"],
        "cache_mb": sum(cell["cache_mb"] for cell in first),
        "peak_mb": inferred["peak_mb"],
        "image_auroc": inferred["image_auroc"],
    }


def _thinned(data: Path, job: Job, out: Path) -> pd.DataFrame:
    """Link the job's categories of a dataset into a folder, with every so many training images in its sample table;
    return the table."""
    manifest = read_manifest(data)
    parts = [category_rows(manifest, category, "train").iloc[:: job.every] for category in job.categories]
    out.mkdir(parents=True)
    for category in job.categories:
        (out / category).symlink_to((data / category).resolve())
    return write_manifest(out, pd.concat(parts))


def export_detector(folder: Path, to: Format, out: Path) -> None:
    """Export the detector of a folder."""
    export(load_detector(folder), to, out)


def infer(engine: Engine, images: Images, threads: int) -> dict[str, float]:
    """Time an engine; milliseconds per image, images per second and megabytes."""
    torch.set_num_threads(threads)
    score = _open(engine, threads)
    measured = {batch: _timed(score, images.pixels, batch) for batch in BATCHES}
    latencies, rates = measured[1][0], {batch: batch / np.median(walls) for batch, (walls, _) in measured.items()}
    result = {
        "latency_ms": 1000 * float(np.median(latencies)),
        "p99_ms": 1000 * float(np.quantile(latencies, 0.99)),
        "cpu_ms": 1000 * float(np.median(measured[8][1])) / 8,
        "images_per_s": float(max(rates.values())),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if engine.method != "backbone":
        scores = _image_scores(score, images)
        result |= image_metrics(images.labels, scores)
        if engine.runtime == REDUCED:
            exact = _image_scores(load(engine.folder, threads), images)
            result["score_difference"] = float((np.abs(scores - exact) / (1 + np.abs(exact))).max())
    return result


def _image_scores(inspect: Inspect, images: Images) -> np.ndarray:
    starts = range(0, len(images.pixels), 8)
    return np.concatenate([inspect(images.pixels[start : start + 8]).scores for start in starts])


def _timed(score: Callable[[np.ndarray], Any], pixels: np.ndarray, batch: int) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of each call, after a warm-up; every call has other images."""
    walls: list[float] = []
    cpus: list[float] = []
    start, begin = 0, time.perf_counter()
    while (since := time.perf_counter() - begin) < WARM_UP_S + MEASURED_S or len(walls) < 3:
        chosen = np.take(pixels, range(start, start + batch), axis=0, mode="wrap")
        start += batch
        wall, cpu = time.perf_counter(), time.process_time()
        score(chosen)
        if since > WARM_UP_S:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    return walls, cpus


def _open(engine: Engine, threads: int) -> Callable[[np.ndarray], Any]:
    if engine.runtime not in ("eager", UNCUT, "compiled"):
        return load(engine.folder, threads, "bfloat16" if engine.runtime == REDUCED else "float32")
    detector = load_detector(engine.folder)
    if engine.runtime == UNCUT:
        uncut = _Uncut(detector.features.backbone, find_weights(detector.model.backbone, detector.model.weights))
        return _without_gradients(uncut if engine.method == "backbone" else _as_anomalib(detector, uncut))
    if engine.method == "backbone":
        return _without_gradients(detector.features.of_images)
    graph: Any = Graph(detector)
    if engine.runtime == "compiled":
        graph = torch.compile(graph, dynamic=False)
    return _without_gradients(lambda images: Inspection(*(part.numpy() for part in graph(images))))


class _Uncut(nn.Module):
    """A backbone as timm gives it to anomalib, features (B, C_i, h_i, w_i) of images uint8 (B, S, S, 3)."""

    def __init__(self, backbone: Backbone, weights: Weights):
        super().__init__()
        self.cut = backbone
        self.net = import_timm().create_model(weights.backbone, features_only=True, out_indices=backbone.levels).eval()
        missing = self.net.load_state_dict(pretrained_model(weights).state_dict(), strict=False).missing_keys
        assert not missing, f"timm's features of {weights.backbone} have tensors of their own: {missing}"

    def forward(self, images_bhwc: Tensor) -> list[Tensor]:
        return self.net((scaled(images_bhwc) - self.cut.mean) / self.cut.std)


def _as_anomalib(detector: Detector, uncut: _Uncut) -> Callable[[Tensor], Inspection]:
    levels, limits = detector.features, detector.thresholds
    assert isinstance(levels, Levels), "the features of a peer"

    def inspect(images_bhwc: Tensor) -> Inspection:
        maps, scores = detector.scorer(levels.in_a_row(uncut(images_bhwc)))
        found = scores, scores > limits.image, maps, maps > limits.pixel
        return Inspection(*(part.numpy() for part in found))

    return inspect


def _without_gradients(work: Callable[[Tensor], Any]) -> Callable[[np.ndarray], Any]:
    def score(pixels: np.ndarray) -> Any:
        with torch.inference_mode():
            return work(torch.from_numpy(pixels))

    return score
