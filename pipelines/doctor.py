"""``clflow doctor``: everything a benchmark needs, checked before hours are spent on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
from rich.console import Console

from clflow.config.params import Params
from clflow.data.catalogue import find
from clflow.errors import ClflowError
from clflow.files import cache_folder
from pipelines.workspace.names import require_known
from pipelines.workspace.paths import Workspace

_CATEGORY_GB = 0.5  # 0.33 of images in MVTec AD's 15 categories (4.9 GB); the rest for cells, scores and models


def examine(params: Params, workspace: Workspace) -> int:
    """Run all checks, print a line for each, and return how many found something wrong."""
    console = Console(soft_wrap=True, highlight=False)
    checks: list[tuple[str, Callable[[Params, Workspace], Iterator[str]]]] = [
        ("resources", _resources),
        ("paths", _paths),
        ("names", _names),
        ("weights", _weights),
        ("datasets", _datasets),
        ("tracking", _tracking),
    ]
    wrong = 0
    for name, check in checks:
        try:
            for line in check(params, workspace):
                console.print(f"ok     {name}: {line}", markup=False)
        except ClflowError as error:
            wrong += 1
            console.print(f"WRONG  {name}: {error}", markup=False)
    console.print(f"{wrong} of {len(checks)} checks found something wrong." if wrong else "All is well.", markup=False)
    return wrong


def _resources(params: Params, workspace: Workspace) -> Iterator[str]:
    from pipelines.compute import cluster

    with cluster.session(params.resources):
        yield f"{cluster.concurrent_cells(params.resources)} cells at once, GPUs: {cluster.has_gpus()}"


def _paths(params: Params, workspace: Workspace) -> Iterator[str]:
    features = cache_folder() / "features"
    cached = sum(file.stat().st_size for file in features.glob("*.npy")) / 1e9
    categories = sum(len(params.data[dataset].categories) for dataset in params.benchmark.datasets)
    needs = {
        workspace.root: (_CATEGORY_GB * categories, "images and cells; name another --workspace"),
        features: (
            max(0.0, params.resources.feature_cache_gb - cached),
            "the feature cache; lower resources.feature_cache_gb or set CLFLOW_CACHE",
        ),
    }
    for folder, (needed, purpose) in needs.items():
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise ClflowError(f"{folder} cannot be written; correct its permissions or set CLFLOW_CACHE.")
        free = shutil.disk_usage(folder).free / 1e9
        if free < needed:
            raise ClflowError(f"{folder} has {free:.1f} GB free; {needed:.1f} may be taken by {purpose}.")
        yield f"{folder} has {free:.0f} GB free, {needed:.1f} may be taken"


def _names(params: Params, workspace: Workspace) -> Iterator[str]:
    require_known(params)
    yield f"methods {', '.join(params.benchmark.methods)}; datasets {', '.join(params.benchmark.datasets)}"


def _weights(params: Params, workspace: Workspace) -> Iterator[str]:
    from clflow.features.backbone import Backbone
    from clflow.features.weights import find_weights

    wanted = [
        params.for_category(dataset, category, method).model
        for dataset in params.benchmark.datasets
        for category in params.data[dataset].categories
        for method in params.benchmark.methods
    ]
    for backbone, source, strides in sorted({(m.backbone, m.weights, m.strides) for m in wanted}):
        weights = find_weights(backbone, source)
        digest = Backbone(weights, strides).digest()
        yield f"{backbone} from {weights.file or 'the hub'}, digest {digest[:12]}"


def _datasets(params: Params, workspace: Workspace) -> Iterator[str]:
    problems = []
    for name in params.benchmark.datasets:
        source, archive = params.data[name].source, find(name, params.data[name].layout).archive
        if source is not None:
            if not Path(source).exists():
                problems.append(f"data.{name}.source {source} does not exist")
            else:
                yield f"{name} from {source}"
        elif archive is None:
            yield f"{name} needs no download"
        elif (cache_folder() / "downloads" / archive.file).exists():
            yield f"{name} is downloaded"
        else:
            answers = {url: _link(url) for url in archive.urls}
            if not any(answer == "ok" for answer in answers.values()):
                tried = ", ".join(f"{url}: {answer}" for url, answer in answers.items())
                problems.append(f"no link of {name} answers ({tried}); set data.{name}.source to a local archive")
            else:
                yield f"{name} can be downloaded"
    if problems:
        raise ClflowError("; ".join(problems) + ".")


def _link(url: str) -> str:
    try:
        with requests.get(url, stream=True, timeout=10) as response:
            return "ok" if response.ok else f"HTTP {response.status_code}"
    except requests.RequestException as error:
        return type(error).__name__


def _tracking(params: Params, workspace: Workspace) -> Iterator[str]:
    from pipelines.tracking.tracker import Tracker

    tracker = Tracker.connect(params, workspace)
    tracker.require()
    yield tracker.uri
