"""``clflow bench accelerator``: what training and inference take on an accelerator, and what limits them there.

The cells are trained one after another in this process, without the workflow around them, so that the figures are of
the accelerator and of the processor that feeds it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from clflow.config.params import Params
from clflow.errors import ClflowError
from clflow.files import write_json
from clflow.metrics import image_metrics
from clflow.model.detector import Detector
from clflow.provenance import commit
from clflow.training.loop import fit
from clflow.training.worker import Worker
from clflow.training.worker import run as finish
from pipelines.costs.measure import Case, Images, Trained, test_images, train_alone
from pipelines.reporting.markdown import markdown_table
from pipelines.workspace.outputs import Outputs
from pipelines.workspace.paths import Workspace

METHODS = ("clflow", "fastflow")
PRECISIONS = ("float32", "tf32", "bfloat16")
RUNS = tuple(product(("eager", "graph"), PRECISIONS, (1, 8, 32, 128, 512)))
"""Runtime, precision and size of batch of every measurement of inference."""

MEASURED_S = 0.5
"""How long each is run for, after a few runs to warm up."""

MATRIX = 8192
"""Side of the square matrices whose product stands for the most that the accelerator can do."""

_DEVICE = torch.device("cuda")
_WARM_UP = 5  # runs
_TRACED = 20  # steps of training
_PROFILED = 128  # images per batch
_OPERATIONS = 8  # of a profile, at most


@dataclass(frozen=True)
class _Cell:
    """A trained cell, the parameters that hold for it, and what it took."""

    trained: Trained
    params: Params
    figures: dict[str, Any]


def run(params: Params, dataset: str, categories: Sequence[str], workspace: Workspace, out: Path) -> None:
    """Measure on the first CUDA device; write ``accelerator.json`` and ``accelerator.md``.

    Args:
        params: of the benchmark; all its seeds are trained, with clflow and fastflow.
        dataset: fetched and synthesized in the workspace.
        categories: those to train; inference is measured on test images of the first.
        workspace: of the benchmark.
        out: folder for the two files.

    Raises:
        ClflowError: there is no CUDA device, ``out`` holds such files of somebody else, the dataset is not there, or
            the first category has no test images.
    """
    if not torch.cuda.is_available():
        raise ClflowError("no CUDA device is to be seen here; `clflow bench methods` measures a processor.")
    named = " ".join(f"--category {category}" for category in categories)
    command, outputs = f"clflow bench accelerator --dataset {dataset} {named}", Outputs(out)
    outputs.require(command, ("accelerator.json", "accelerator.md"))
    images = test_images(params, dataset, categories[0], workspace)
    torch.set_num_threads(os.cpu_count() or 1)  # decoding takes as many threads as torch may
    with tempfile.TemporaryDirectory() as name:
        trained = (
            _train(Case(params, dataset, category, method, seed, workspace, Path(name)))
            for category, method, seed in product(categories, METHODS, params.benchmark.seeds)
        )
        first = next(trained)
        cells = [first.figures, *(cell.figures for cell in trained)]
    detector = first.trained.detector
    pixels = torch.from_numpy(images.pixels)
    with FlopCounterMode(display=False) as counter:
        detector(pixels[:1].to(_DEVICE))
    flops, peaks = counter.get_total_flops(), {precision: _peak(precision) for precision in PRECISIONS}
    inference = [_measure(detector, pixels, *how) for how in RUNS]
    for row in inference:
        row["share"] = row["images_per_s"] * flops / peaks[row["precision"]]
    result = {
        "dataset": dataset,
        "categories": list(categories),
        "image_size": params.protocol.image_size,
        "backbone": params.model.backbone,
        "commit": commit(),
        "accelerator": torch.cuda.get_device_name(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "flops_per_image": flops,
        "peak_flops": peaks,
        "image_auroc": {precision: _image_auroc(detector, images, precision) for precision in PRECISIONS},
        "cells": cells,
        "inference": inference,
        "profiles": {
            "inference": _profile(lambda: detector(_batch(pixels, _PROFILED))),
            "training": _profile(lambda: _fit(first)),
        },
    }
    with outputs.replace(command) as folder:
        write_json(folder / "accelerator.json", result)
        (folder / "accelerator.md").write_text(page(result), encoding="utf-8")
    print(out / "accelerator.md")


def _train(case: Case) -> _Cell:
    """Train a cell and score its test images; the first of those that share features pays for them."""
    trained = train_alone(case, _DEVICE, time.perf_counter)
    begin = time.perf_counter()
    images = test_images(case.params, case.dataset, case.category, case.workspace)
    scores = _scores(trained.detector, torch.from_numpy(images.pixels))
    figures = {
        "category": case.category,
        "method": case.method,
        "seed": case.seed,
        "features_s": trained.features_s,
        "fit_s": trained.fit_s,
        "test_s": time.perf_counter() - begin,
        "image_auroc": image_metrics(images.labels, scores)["image_auroc"],
    }
    return _Cell(trained, case.given, figures)


def _fit(cell: _Cell) -> None:
    """A short training, half of it with all losses: the trace of a whole one takes minutes to read."""
    params = cell.params
    train = params.train.model_copy(update={"steps": _TRACED, "warmup": 1, "eval_points": 1})
    training = fit(cell.trained.data, params.model, params.loss, train, True, 0, Worker.single(_DEVICE))
    finish(training, lambda point, save: None)


def _batch(pixels: Tensor, size: int) -> Tensor:
    """So many images in the accelerator's memory; they come again if there are fewer."""
    return pixels.repeat(-(-size // len(pixels)), 1, 1, 1)[:size].to(_DEVICE)


@torch.inference_mode()
def _scores(detector: nn.Module, pixels: Tensor) -> np.ndarray:
    return np.concatenate([detector(chosen.to(_DEVICE))[1].cpu().numpy() for chosen in pixels.split(32)])


@contextmanager
def _computing_in(precision: str) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
    try:
        with torch.autocast(_DEVICE.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@torch.inference_mode()
def _peak(precision: str) -> float:
    """Operations per second of the product of two large random matrices."""
    left, right = (torch.randn(MATRIX, MATRIX, device=_DEVICE) for _ in range(2))
    if precision == "bfloat16":
        left, right = left.bfloat16(), right.bfloat16()
    with _computing_in(precision):
        return 2 * MATRIX**3 / float(np.median(_seconds(lambda: left @ right)))


@torch.inference_mode()
def _measure(detector: Detector, pixels: Tensor, runtime: str, precision: str, batch: int) -> dict[str, Any]:
    """Time a detector on images in the accelerator's memory."""
    given = _batch(pixels, batch)
    torch.cuda.reset_peak_memory_stats()
    with _computing_in(precision):
        seconds = _seconds(_RUNTIMES[runtime](detector, given))
    return {
        "runtime": runtime,
        "precision": precision,
        "batch": batch,
        "latency_ms": 1000 * float(np.median(seconds)),
        "p99_ms": 1000 * float(np.quantile(seconds, 0.99)),
        "images_per_s": batch / float(np.median(seconds)),
        "peak_mb": torch.cuda.max_memory_allocated() / 1e6,
    }


def _image_auroc(detector: Detector, images: Images, precision: str) -> float:
    with _computing_in(precision):
        return image_metrics(images.labels, _scores(detector, torch.from_numpy(images.pixels)))["image_auroc"]


def _eager(detector: Detector, given: Tensor) -> Callable[[], object]:
    return lambda: detector(given)


def _graph(detector: Detector, given: Tensor) -> Callable[[], object]:
    """The same kernels, recorded once and started together."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # cuDNN chooses its algorithms, which must not be recorded
        for _ in range(_WARM_UP):
            detector(given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        detector(given)
    return graph.replay


_RUNTIMES = {"eager": _eager, "graph": _graph}


def _seconds(work: Callable[[], object]) -> list[float]:
    """Seconds of each run, until the accelerator is done with it."""
    for _ in range(_WARM_UP):
        work()
    torch.cuda.synchronize()
    seconds: list[float] = []
    while sum(seconds) < MEASURED_S:
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return seconds


def _profile(work: Callable[[], object]) -> dict[str, Any]:
    """How long some work takes, the share of it that the accelerator is busy, and what it is busy with."""
    work()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    wall = time.perf_counter() - begin
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    spent = {
        event.key: event.self_device_time_total / 1e6
        for event in profiler.key_averages()
        # What is no operator is the profiler's own work.
        if event.key.startswith("aten::") and event.device_type == DeviceType.CPU and event.self_device_time_total > 0
    }
    total = sum(spent.values())
    largest = sorted(spent, key=spent.__getitem__, reverse=True)[:_OPERATIONS]
    return {"seconds": wall, "busy": total / wall, "operations": {name: spent[name] / total for name in largest}}


def page(result: dict[str, Any]) -> str:
    """The page that people read."""
    cells = result["cells"]
    total = sum(cell["features_s"] + cell["fit_s"] + cell["test_s"] for cell in cells)
    peaks = ", ".join(f"{1e-12 * peak:.0f} in {precision}" for precision, peak in result["peak_flops"].items())
    qualities = ", ".join(f"{100 * auroc:.1f} in {precision}" for precision, auroc in result["image_auroc"].items())
    trained = markdown_table(
        ["category", "method", "seed", "features, s", "training, s", "test, s", "image AUROC"],
        "llrrrrr",
        [
            [cell["category"], cell["method"], str(cell["seed"])]
            + [f"{cell[key]:.2f}" for key in ("features_s", "fit_s", "test_s")]
            + [f"{cell['image_auroc']:.4f}"]
            for cell in cells
        ],
    )
    inference = markdown_table(
        ["runtime", "precision", "batch", "ms per batch", "p99, ms", "images per s", "share of peak", "peak, MB"],
        "llrrrrrr",
        [
            [
                row["runtime"],
                row["precision"],
                str(row["batch"]),
                f"{row['latency_ms']:.2f}",
                f"{row['p99_ms']:.2f}",
                f"{row['images_per_s']:,.0f}",
                f"{100 * row['share']:.1f} %",
                f"{row['peak_mb']:,.0f}",
            ]
            for row in result["inference"]
        ],
    )
    return f"""# What it takes on an accelerator: {result["dataset"]}

{result["accelerator"]}, {result["cpus"]} CPUs, torch {result["torch"]}; {result["backbone"]} at {result["image_size"]}
pixels; commit {result["commit"]}. Made by
`clflow bench accelerator`.

## Training

{len(cells)} cells one after another in one process, without Ray, MLflow and DVC around them: {total:.0f} s. Images are
decoded and features computed once for those that share them; *test* is reading and scoring the test images. What is
done first also pays for the start of the accelerator.

{trained}

{_profiled(result["profiles"]["training"], f"A training of {_TRACED} steps, with statistics and validation,")}

## Inference

Of {result["categories"][0]}, clflow, from 8-bit pixels in the accelerator's memory to score maps and image scores in
it. An image takes {1e-9 * result["flops_per_image"]:.2f} G operations; a product of matrices of {MATRIX} by {MATRIX}
reached, in T per second, {peaks}. *graph* records the
eager kernels once and starts them together. Image AUROC in %: {qualities}.

{inference}

{_profiled(result["profiles"]["inference"], f"A batch of {_PROFILED} in float32, from the processor's memory,")}
"""


def _profiled(profiled: dict[str, Any], what: str) -> str:
    operations = markdown_table(
        ["operation", "share of the busy time"],
        "lr",
        [[f"`{name}`", f"{100 * share:.0f} %"] for name, share in profiled["operations"].items()],
    )
    busy = f"{100 * profiled['busy']:.0f} %"
    return f"{what} takes {profiled['seconds']:.3f} s, of which the accelerator is busy {busy}:\n\n{operations}"
