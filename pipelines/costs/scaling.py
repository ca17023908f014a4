"""``clflow bench scaling``: how the cost of the method grows with what it is given, one axis at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clflow.config.params import Params
from clflow.data.catalogue import find
from clflow.files import write_json
from clflow.provenance import commit
from pipelines.costs import measure
from pipelines.costs.hardware import alone, load_after, observe
from pipelines.costs.hardware import describe as describe_machine
from pipelines.costs.measure import Job
from pipelines.reporting.markdown import markdown_table
from pipelines.reporting.plots import house_style, save
from pipelines.workspace.outputs import Outputs
from pipelines.workspace.paths import Workspace

_log = logging.getLogger(__name__)

METHOD = "clflow"
SIZES = (128, 256, 384, 512)
THINNED = (2, 4)
SEEDS = (2, 3)
CATEGORIES = (2, 4, 8)
FIGURE = "growth.png"

_FULL = ("mvtec_ad", "btad")
_FULL_SEEDS = 5
_SPEED_UPS = (10, 30)
_COSTS = {
    "features_cpu_s": "features, CPU-s",
    "fit_cpu_s": "training, CPU-s",
    "inference_ms": "inference, CPU-ms per image",
    "cache_mb": "cached features, MB",
    "peak_mb": "peak memory, MB",
}
_AXES: dict[str, tuple[str, Callable[[dict[str, Any]], int]]] = {
    "image_size": ("pixels", lambda row: row["image_size"]),
    "every": ("normal training images", lambda row: row["normal"]),
    "seeds": ("seeds", lambda row: len(row["seeds"])),
    "categories": ("categories", lambda row: len(row["categories"])),
}
"""A field of `Job` that is swept while the others stay, with its title and how far a row is along it."""


def run(params: Params, dataset: str, category: str, workspace: Workspace, out: Path) -> None:
    """Measure one cell of a category, and larger and smaller jobs; write ``growth.json``, ``growth.md`` and a figure.

    Args:
        params: of the benchmark; the first of its seeds is where the sweep begins.
        dataset: fetched in the workspace.
        category: one of its categories.
        workspace: of the benchmark.
        out: folder for the three files.

    Raises:
        ClflowError: ``out`` holds such files of somebody else, the dataset is not there, or the category has no test
            images.
    """
    command, outputs = f"clflow bench scaling --dataset {dataset} --category {category}", Outputs(out)
    outputs.require(command, ("growth.json", "growth.md", FIGURE))
    threads = params.resources.cpus_per_worker
    machine, rows = observe(threads, {}), []
    for job in sweep(params, dataset, category):
        _log.info(describe(job))
        rows.append(alone(measure.grow, params, dataset, METHOD, job, workspace, threads))
    result = {
        "dataset": dataset,
        "category": category,
        "method": METHOD,
        "backbone": params.model.backbone,
        "steps": params.train.steps,
        "commit": commit(),
        "machine": machine | load_after(),
        "growth": rows,
    }
    with outputs.replace(command) as folder:
        figure(rows, folder / FIGURE)
        write_json(folder / "growth.json", result)
        (folder / "growth.md").write_text(page(result), encoding="utf-8")
    print(out / "growth.md")


def sweep(params: Params, dataset: str, category: str) -> list[Job]:
    """The jobs to measure: one cell of the category first, then more along one axis at a time."""
    seed, size = params.benchmark.seeds[0], params.protocol.image_size
    one = Job((category,), (seed,), size)
    others = tuple(other for other in params.data[dataset].categories if other != category)
    return [
        one,
        *(replace(one, image_size=other) for other in SIZES if other != size),
        *(replace(one, every=every) for every in THINNED),
        *(replace(one, seeds=tuple(range(seed, seed + count))) for count in SEEDS),
        *(replace(one, categories=(category, *others[: n - 1])) for n in CATEGORIES if n - 1 <= len(others)),
    ]


def describe(job: Job) -> str:
    """A job in words."""
    seeds, thinned = len(job.seeds), f", 1 in {job.every} normal images" * (job.every > 1)
    return f"{', '.join(job.categories)} at {job.image_size} pixels, {seeds} seed{'s' * (seeds > 1)}{thinned}"


def page(result: dict[str, Any]) -> str:
    """What was measured as Markdown, and what it lets expect of the full benchmark."""
    rows = result["growth"]
    header = ["categories", "seeds", "pixels", "normal images", "synthesis, CPU-s", *_COSTS.values(), "image AUROC"]
    table = [
        [
            ", ".join(row["categories"]),
            str(len(row["seeds"])),
            str(row["image_size"]),
            str(row["normal"]),
            f"{row['synthesis_cpu_s']:.1f}",
            *(f"{row[name]:.1f}" for name in _COSTS),
            f"{row['image_auroc']:.4f}",
        ]
        for row in rows
    ]
    return f"""# The way cost grows: {result["dataset"]} {result["category"]}

{describe_machine(result["machine"])}; {result["backbone"]}, {result["steps"]} steps; commit
{result["commit"][:12]}. Made by `clflow bench scaling --dataset {result["dataset"]} --category {result["category"]}`.

Each row is a process of its own, which synthesizes and trains {result["method"]} once for each category and seed with
an empty feature cache, then scores the first category's test images by its first training, in batches of 8. Features
are made once per image, for all seeds; training draws a fixed number of positions per step, so what grows with the
size of images is its validation, at each report. Image AUROC is of one training: a seed's luck is in it.

![Cost against image size, normal images, seeds and categories]({FIGURE})

{markdown_table(header, "l" + "r" * (len(header) - 1), table)}

{_extrapolation(rows[0])}
"""


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw each cost of `sweep`'s jobs along each axis; the first job lies on all of them."""
    with house_style():
        drawn = Figure(figsize=(2.5 * len(_COSTS), 2.2 * len(_AXES)), layout="constrained")
        panels = drawn.subplots(len(_AXES), len(_COSTS))
        for across, (axis, (title, extent)) in zip(panels, _AXES.items(), strict=True):
            fixed = _AXES.keys() - {axis}
            along = sorted((row for row in rows if all(row[name] == rows[0][name] for name in fixed)), key=extent)
            measured = [extent(row) for row in along]
            for panel, cost in zip(across, _COSTS, strict=True):
                panel.plot(measured, [row[cost] for row in along], "o-")
                panel.set_xlabel(title)
                panel.set_xticks(measured)
                panel.set_ylim(0, 1.1 * max(row[cost] for row in rows))  # alike along all axes
        for panel, title in zip(panels[0], _COSTS.values(), strict=True):
            panel.set_title(title)
        save(drawn, path)


def _extrapolation(row: dict[str, Any]) -> str:
    """What the job of one cell lets expect of the full benchmark."""
    counts = [count for dataset in _FULL for count in find(dataset).counts.values()]
    train, test = sum(c.train for c in counts), sum(c.test_good + c.test_defective for c in counts)
    made = len(counts) * row["synthetic"]
    cells = len(counts) * _FULL_SEEDS
    hours = {
        "synthesis": made * row["synthesis_cpu_s"] / row["synthetic"] / 3600,
        "features": (train + made) * row["features_cpu_s"] / row["images"] / 3600,
        "training": cells * row["fit_cpu_s"] / 3600,
        "scoring": _FULL_SEEDS * test * row["inference_ms"] / 3.6e6,
    }
    once, learned = hours.pop("synthesis"), sum(hours.values())
    parts = ", ".join(f"{name} {value:.1f}" for name, value in hours.items())
    expected = "; ".join(
        f"{gpus} GPU{'s' * (gpus > 1)}, each as fast as {faster} such cores: {learned / faster / gpus:.2f} h"
        for gpus in (1, 8)
        for faster in _SPEED_UPS
    )
    return (
        f"Extrapolated to {row['method']} on {' and '.join(_FULL)} ({len(counts)} categories, {train:,} normal "
        f"training images, {test:,} test images, {made:,} synthetic ones, {_FULL_SEEDS} seeds) at {row['image_size']} "
        f"pixels: {once + learned:.1f} CPU-hours of such a core (synthesis {once:.1f}, {parts}). {expected}. Assumed, "
        "not measured: every category costs what this one costs per image and per cell; how many cores a GPU is "
        "worth; cells divide evenly over GPUs; synthesis stays on the CPU beside them; and the start of processes, "
        "which no GPU shortens, is left out."
    )
