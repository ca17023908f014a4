"""``clflow bench methods``: what training and inference cost, all methods and runtimes side by side in one run.

Every measurement has a process of its own, so that its peak memory and its threads are its own, and all inference is
measured in several rounds, one after the other, so that what disturbs the machine for a while disturbs all alike.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clflow.config.params import Params
from clflow.export import FORMATS
from clflow.files import write_json
from clflow.precision import computes_bfloat16
from clflow.provenance import commit
from pipelines.costs import measure
from pipelines.costs.hardware import alone, describe, load_after, observe
from pipelines.costs.measure import Case, Engine
from pipelines.reporting.markdown import markdown_table
from pipelines.workspace.outputs import Outputs
from pipelines.workspace.paths import Workspace

_log = logging.getLogger(__name__)

METHODS = ("clflow", "anomalib-fastflow", "anomalib-patchcore-1", "anomalib-padim")
ROUNDS = 3
EXTRAS = {"anomalib": "peers", "onnxruntime": "export", "openvino": "export"}
"""Packages that are measured, and the extra of ours that brings each."""


def run(params: Params, dataset: str, category: str, workspace: Workspace, out: Path) -> None:
    """Measure one category; write ``bench.json`` and ``bench.md``.

    Args:
        params: of the benchmark; the first of its seeds is trained.
        dataset: fetched and synthesized in the workspace.
        category: one of its categories.
        workspace: of the benchmark.
        out: folder for the two files.

    Raises:
        ClflowError: ``out`` holds such files of somebody else, the dataset is not there, the category has no test
            images, or extra ``peers`` or ``export`` is not installed.
    """
    command, outputs = f"clflow bench methods --dataset {dataset} --category {category}", Outputs(out)
    outputs.require(command, ("bench.json", "bench.md"))
    threads = params.resources.cpus_per_worker
    machine = observe(threads, EXTRAS)
    images = measure.test_images(params, dataset, category, workspace)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training, seed = [], params.benchmark.seeds[0]
        for method in METHODS:
            _log.info("training %s", method)
            case = Case(params, dataset, category, method, seed, workspace, folder / "features" / method)
            training.append(alone(measure.train, case, folder / method, threads))
        for to in FORMATS:
            alone(measure.export_detector, folder / METHODS[0], to, folder / to)
        engines = [
            Engine("backbone", "eager", folder / METHODS[0]),
            Engine("backbone", measure.UNCUT, folder / METHODS[0]),
            *(Engine(method, "eager", folder / method) for method in METHODS),
            *(Engine(method, measure.UNCUT, folder / method) for method in METHODS[1:]),
            Engine(METHODS[0], "compiled", folder / METHODS[0]),
            *(Engine(METHODS[0], to, folder / to) for to in FORMATS),
        ]
        if computes_bfloat16(torch.device("cpu")):  # elsewhere OpenVINO would compute in float32 all the same
            engines.append(Engine(METHODS[0], measure.REDUCED, folder / "openvino"))
        rounds: list[list[dict[str, Any]]] = []
        for number in range(ROUNDS):
            _log.info("inference, round %d of %d", number + 1, ROUNDS)
            rounds.append([alone(measure.infer, engine, images, threads) for engine in engines])
    inference = [
        {"method": engine.method, "runtime": engine.runtime} | _combined([measured[i] for measured in rounds])
        for i, engine in enumerate(engines)
    ]
    result = {
        "dataset": dataset,
        "category": category,
        "image_size": params.protocol.image_size,
        "backbone": params.model.backbone,
        "commit": commit(),
        "machine": machine | load_after(),
        "rounds": ROUNDS,
        "training": training,
        "inference": inference,
    }
    with outputs.replace(command) as folder:
        write_json(folder / "bench.json", result)
        (folder / "bench.md").write_text(page(result), encoding="utf-8")
    print(out / "bench.md")


def _combined(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """The median of the rounds, and of the latency also the lowest and highest, as its spread."""
    medians = {name: float(np.median([measured[name] for measured in rounds])) for name in rounds[0]}
    latencies = [measured["latency_ms"] for measured in rounds]
    return medians | {"latency_ms_lowest": min(latencies), "latency_ms_highest": max(latencies)}


def page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    batches = ", ".join(map(str, measure.BATCHES))
    return f"""# What it costs: {result["dataset"]} {result["category"]}

{describe(result["machine"])}; {result["backbone"]} at {result["image_size"]} pixels; commit
{result["commit"][:12]}. Made by `clflow bench methods --dataset {result["dataset"]} --category {result["category"]}`.

## Training, to the final weights

CPU seconds. *Without cache* is what the same training would cost if the backbone ran in every epoch, as anomalib runs
it: the cost of the normal images' features, measured once, times the epochs. Validation is the mean of image AUROC and
AUPRO on held-out normal images and synthetic anomalies.

{_training_table(result["training"])}

## Inference, from pixels to scores and maps at pixel resolution

Medians of {result["rounds"]} rounds; in each, median and 99th percentile of batch 1, CPU time per image in batches of
8, and images per second in the best of batches of {batches}. The ratio is CPU time over that
of the fastest runtime of {METHODS[0]} in float32. *Uncut* is as anomalib runs its methods: all stages of the backbone,
though the last are not used, batch norms apart, and a whole batch at once. All else runs a backbone cut after the last
stride in use, norms folded, and on a CPU a few images of a batch at a time; *backbone* is that alone.

{_inference_table(result["inference"])}

{_bfloat16(result["inference"])}
"""


def _training_table(rows: list[dict[str, Any]]) -> str:
    header = ["method", "features", "training", "sum", "steps or epochs", "without cache", "added", "validation"]
    cells = [
        [
            row["method"],
            f"{row['features_cpu_s']:.1f}",
            f"{row['fit_cpu_s']:.1f}",
            f"{row['features_cpu_s'] + row['fit_cpu_s']:.1f}",
            str(row["steps"]),
            "" if row["without_cache_cpu_s"] is None else f"{row['without_cache_cpu_s']:.1f}",
            f"{row['params_added']:,}",
            f"{row['validation']:.3f}",
        ]
        for row in rows
    ]
    return markdown_table(header, "l" + "r" * 7, cells)


def _inference_table(rows: list[dict[str, Any]]) -> str:
    exact = [row for row in rows if row["method"] == METHODS[0] and row["runtime"] != measure.REDUCED]
    fastest = min(row["cpu_ms"] for row in exact)
    header = ["method", "runtime", "batch 1, ms", "range", "p99, ms", "CPU-ms per image", "images per s", "peak, MB"]
    cells = [
        [
            row["method"],
            row["runtime"],
            f"{row['latency_ms']:.1f}",
            f"{row['latency_ms_lowest']:.1f} to {row['latency_ms_highest']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{row['cpu_ms']:.1f}",
            f"{row['images_per_s']:.1f}",
            f"{row['peak_mb']:.0f}",
            f"{row['cpu_ms'] / fastest:.2f}",
            f"{row['image_auroc']:.4f}" if "image_auroc" in row else "",
        ]
        for row in rows
    ]
    return markdown_table([*header, "ratio", "image AUROC"], "ll" + "r" * 8, cells)


def _bfloat16(rows: list[dict[str, Any]]) -> str:
    differences = [row["score_difference"] for row in rows if row["runtime"] == measure.REDUCED]
    if not differences:
        return "This processor does not compute in bfloat16, so OpenVINO was not measured with it."
    return (
        f"In bfloat16, the scores of single images move by up to {differences[0]:.2g} (of one\n"
        "plus the score); what that does to image AUROC is in the table."
    )
