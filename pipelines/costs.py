"""What the bench measures; each function is meant for a process of its own."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clflow.data.images import read_image
from clflow.data.manifest import category_rows, read_manifest
from clflow.export import Format, Graph, Inspect, Inspection, export, load
from clflow.fit import VALIDATION, Worker, run
from clflow.methods import find_method, load_detector
from clflow.metrics import image_metrics
from clflow.model.backbone import pretrained_model
from clflow.model.weights import find_weights
from clflow.params import Params
from clflow.synthesis.category import synthesize_category
from pipelines.worker import load_category

BATCHES = (1, 8, 32)
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
        method: a method, or ``backbone`` or ``whole backbone`` of one.
        runtime: eager, compiled, a format of `clflow.export`, or `REDUCED`.
        folder: of the detector, or of the graph.
    """

    method: str
    runtime: str
    folder: Path


@dataclass(frozen=True)
class Images:
    """Test images, uint8 (N, S, S, 3), and their labels (N,)."""

    pixels: np.ndarray
    labels: np.ndarray


def test_images(params: Params, dataset: str, category: str, workspace: Path) -> Images:
    """All test images of a category, as detectors see them."""
    data = workspace / "data" / dataset
    rows = category_rows(read_manifest(data), category, "test")
    pixels = [read_image(data / path, params.protocol.image_size) for path in rows["path"]]
    return Images(np.stack(pixels), rows["label"].to_numpy())


def train(
    params: Params, dataset: str, category: str, method: str, seed: int, workspace: Path, folder: Path, threads: int
) -> dict[str, Any]:
    """Train a cell with an empty cache, keep its detector in ``folder``, and say what it took in CPU seconds."""
    torch.set_num_threads(threads)
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as cache:
        features, data = load_category(params, dataset, category, method, workspace, Path(cache), _CPU)
        cached = time.process_time()
        worker = Worker(0, 1, _CPU, lambda module: module)
        fit = find_method(method).fit(features, data, params, seed, worker)
        detector, history = run(fit, lambda point, save: None)
        trained = time.process_time()
    folder.mkdir()
    detector.save(folder)
    images = len(data.normal) + len(data.held_out_normal) + len(data.synthetic) + len(data.held_out_synthetic)
    normal_s = (cached - begin) * len(data.normal) / images
    steps = int(history[-1]["step"])
    return {
        "method": method,
        "seed": seed,
        "features_cpu_s": cached - begin,
        "fit_cpu_s": trained - cached,
        "without_cache_cpu_s": trained - cached + steps * normal_s if method == _EPOCHS else None,
        "steps": steps,
        "params_added": detector.parameter_count(),
        "validation": max(point[VALIDATION] for point in history),
        "images": images,
        "cache_mb": images * data.normal[0].nbytes / 1e6,
    }


def grow(
    params: Params, dataset: str, category: str, method: str, seed: int, size: int, workspace: Path, threads: int
) -> dict[str, Any]:
    """Synthesize, train and score a category at another image size, and say what each took."""
    params = params.model_copy(update={"protocol": params.protocol.model_copy(update={"image_size": size})})
    given = params.for_category(dataset, category, method)
    data = workspace / "data" / dataset
    rows = category_rows(read_manifest(data), category, "train")
    with tempfile.TemporaryDirectory() as name:
        scratch, detector = Path(name), Path(name) / "detector"
        (scratch / "data").mkdir()
        (scratch / "data" / dataset).symlink_to(data)
        begin = time.process_time()
        synthesize_category(data, rows, given, scratch / "synthetic" / dataset / given.synthetic_set(category, method))
        synthesized = time.process_time() - begin
        trained = train(given, dataset, category, method, seed, scratch, detector, threads)
        images = test_images(params, dataset, category, workspace)
        inferred = infer(Engine(method, "eager", detector), images, threads)
    return {
        "method": method,
        "seed": seed,
        "category": category,
        "image_size": size,
        "normal": len(rows),
        "synthesis_ms": 1000 * synthesized / (params.synthesis.count + params.synthesis.held_out),
        "features_ms": 1000 * trained["features_cpu_s"] / trained["images"],
        "fit_cpu_s": trained["fit_cpu_s"],
        "inference_ms": inferred["cpu_ms"],
        "cache_mb": trained["cache_mb"] / trained["images"],
        "peak_mb": inferred["peak_mb"],
        "image_auroc": inferred["image_auroc"],
    }


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
    if "backbone" not in engine.method:
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
    if engine.runtime not in ("eager", "compiled"):
        return load(engine.folder, threads, "bfloat16" if engine.runtime == REDUCED else "float32")
    detector = load_detector(engine.folder)
    if engine.method == "backbone":
        return _without_gradients(lambda images: detector.features.backbone(_scaled(images)))
    if engine.method == "whole backbone":
        model = detector.model
        whole = pretrained_model(find_weights(model.backbone, model.weights))
        return _without_gradients(lambda images: whole.forward_features(_scaled(images)))
    graph: Any = Graph(detector)
    if engine.runtime == "compiled":
        graph = torch.compile(graph, dynamic=False)
    return _without_gradients(lambda images: Inspection(*(part.numpy() for part in graph(images))))


def _scaled(images_bhwc: torch.Tensor) -> torch.Tensor:
    return images_bhwc.permute(0, 3, 1, 2).to(torch.float32) / 255


def _without_gradients(work: Callable[[torch.Tensor], Any]) -> Callable[[np.ndarray], Any]:
    def score(pixels: np.ndarray) -> Any:
        with torch.inference_mode():
            return work(torch.from_numpy(pixels))

    return score
