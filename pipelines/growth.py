"""How the cost of the method grows with what it is given: the page and the figure of the bench's sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clflow.data.catalogue import find
from clflow.params import Params
from pipelines.markdown import markdown_table
from pipelines.plots import house_style, save

SIZES = (128, 256, 384, 512)
FIGURE = "growth.png"

_FULL = ("mvtec_ad", "btad")
_SEEDS = 5
_SPEED_UPS = (10, 30)
_PANELS = {
    "features_ms": "features, CPU-ms per image",
    "fit_cpu_s": "training, CPU-s per cell",
    "inference_ms": "inference, CPU-ms per image",
    "cache_mb": "cached features, MB per image",
    "peak_mb": "peak memory, MB",
}


def section(rows: list[dict[str, Any]], params: Params) -> str:
    """What was measured as Markdown, and what it lets expect of the full benchmark.

    Args:
        rows: of `pipelines.costs.grow`, the first category first.
        params: of the benchmark; features and inference are extrapolated at its image size.
    """
    header = ["category", "pixels", "normal images", "synthesis, CPU-ms per image", *_PANELS.values(), "image AUROC"]
    table = [
        [
            row["category"],
            str(row["image_size"]),
            str(row["normal"]),
            f"{row['synthesis_ms']:.0f}",
            *(f"{row[name]:.1f}" for name in _PANELS),
            f"{row['image_auroc']:.4f}",
        ]
        for row in rows
    ]
    return f"""## The way cost grows

One training of {rows[0]["method"]} with seed {rows[0]["seed"]} at each size, batches of 8 for inference. Features are
made once per image and shared by all seeds and methods that see the same; training draws a fixed number of positions
per step, so what grows with the size of images is its validation, at each report.

![Cost against image size]({FIGURE})

{markdown_table(header, "l" + "r" * (len(header) - 1), table)}

{_extrapolation(rows[0]["method"], _at(rows, params.protocol.image_size), params)}
"""


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw each cost of the first category against image size."""
    of_first = [row for row in rows if row["category"] == rows[0]["category"]]
    with house_style():
        drawn = Figure(figsize=(2.5 * len(_PANELS), 2.6), layout="constrained")
        for panel, (name, title) in zip(drawn.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
            panel.plot([row["image_size"] for row in of_first], [row[name] for row in of_first], "o-")
            panel.set_title(title)
            panel.set_xlabel("pixels")
            panel.set_ylim(bottom=0)
        save(drawn, path)


def _at(rows: list[dict[str, Any]], size: int) -> dict[str, Any]:
    return next(row for row in rows if row["image_size"] == size)


def _extrapolation(method: str, row: dict[str, Any], params: Params) -> str:
    counts = [count for dataset in _FULL for count in find(dataset).counts.values()]
    train, test = sum(c.train for c in counts), sum(c.test_good + c.test_defective for c in counts)
    made = len(counts) * (params.synthesis.count + params.synthesis.held_out)
    cells = len(counts) * _SEEDS
    hours = {
        "synthesis": made * row["synthesis_ms"] / 3.6e6,
        "features": (train + made) * row["features_ms"] / 3.6e6,
        "training": cells * row["fit_cpu_s"] / 3600,
        "scoring": _SEEDS * test * row["inference_ms"] / 3.6e6,
    }
    once, learned = hours.pop("synthesis"), sum(hours.values())
    parts = ", ".join(f"{name} {value:.1f}" for name, value in hours.items())
    expected = "; ".join(
        f"{gpus} GPU{'s' * (gpus > 1)}, each as fast as {faster} such cores: {learned / faster / gpus:.2f} h"
        for gpus in (1, 8)
        for faster in _SPEED_UPS
    )
    return (
        f"Extrapolated to {method} on {' and '.join(_FULL)} ({len(counts)} categories, {train:,} normal training "
        f"images, {test:,} test images, {made:,} synthetic ones, {_SEEDS} seeds) at {row['image_size']} pixels: "
        f"{once + learned:.1f} CPU-hours of such a core (synthesis {once:.1f}, {parts}). {expected}. Assumed, not "
        "measured: every category costs what this one costs per image and per cell; how many cores a GPU is worth; "
        "cells divide evenly over GPUs; synthesis stays on the CPU beside them; and the start of processes, which no "
        "GPU shortens, is left out."
    )
