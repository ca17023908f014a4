"""``clflow doctor``: everything a benchmark needs, checked before hours are spent on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import requests

from clflow.config.params import Params
from clflow.config.schema import Dataset
from clflow.data.catalogue import find
from clflow.data.checks import check_count, check_images
from clflow.data.fetch import require_no_links, source_root
from clflow.data.layout import scan
from clflow.data.manifest import FILE, read_manifest
from clflow.errors import ClflowError, DataError
from clflow.files import cache_folder, require_writable
from clflow.plugins import GROUPS, installed
from pipelines import console
from pipelines.workspace.names import require_known
from pipelines.workspace.paths import Workspace

_PATIENCE = 5  # seconds; for hosts that should answer
_CATEGORY_GB = 0.5  # 0.33 of images in MVTec AD's 15 categories (4.9 GB); the rest for cells, scores and models


class Note(str):
    """A line about what stops no benchmark, but may spoil its numbers."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    check: str
    verdict: Literal["ok", "note", "wrong"]
    message: str

    def __str__(self) -> str:
        verdict = "WRONG" if self.verdict == "wrong" else self.verdict
        return f"{verdict:5}  {self.check}: {self.message}"


def examine(params: Params, workspace: Workspace, as_json: bool = False) -> int:
    """Run all checks, print a line for each finding, or all as JSON, and return how many checks found something wrong.
    Nothing is written."""
    checks: list[tuple[str, Callable[[Params, Workspace], Iterator[str]]]] = [
        ("resources", _resources),
        ("paths", _paths),
        ("names", _names),
        ("plug-ins", _plugins),
        ("weights", _weights),
        ("datasets", _datasets),
        ("images", _images),
        ("tracking", _tracking),
    ]
    findings = []
    for name, check in checks:
        for finding in _findings(name, check(params, workspace)):
            findings.append(finding)
            if not as_json:
                print(finding)
    verdicts = [finding.verdict for finding in findings]
    wrong, notes = verdicts.count("wrong"), verdicts.count("note")
    if as_json:
        console.write_json([asdict(finding) for finding in findings])
    elif wrong:
        print(f"{wrong} of {len(checks)} checks found something wrong.")
    else:
        print(f"Nothing is wrong; {notes} notes say what may mislead." if notes else "All is well.")
    return wrong


def _findings(check: str, lines: Iterator[str]) -> Iterator[Finding]:
    """The findings of a check, whose error is the last of them."""
    try:
        for line in lines:
            yield Finding(check, "note" if isinstance(line, Note) else "ok", line)
    except ClflowError as error:
        yield Finding(check, "wrong", str(error))


def _resources(params: Params, workspace: Workspace) -> Iterator[str]:
    from pipelines.compute import cluster

    with cluster.session(params.resources):
        yield f"{cluster.concurrent_cells(params.resources)} cells at once, GPUs: {cluster.has_gpus()}"


def _paths(params: Params, workspace: Workspace) -> Iterator[str]:
    features = cache_folder() / "features"
    cached = sum(file.stat().st_size for file in features.glob("*.npy")) / 1e9
    categories = sum(len(params.data[dataset].categories) for dataset in params.benchmark.datasets)
    needs = {
        workspace.root: (_CATEGORY_GB * categories, "images and cells; name another --workspace", "--workspace"),
        features: (
            max(0.0, params.resources.feature_cache_gb - cached),
            "the feature cache; lower resources.feature_cache_gb or set CLFLOW_CACHE",
            "CLFLOW_CACHE",
        ),
    }
    for folder, (needed, purpose, advice) in needs.items():
        existing = require_writable(folder, advice)
        free = shutil.disk_usage(existing).free / 1e9
        if free < needed:
            raise ClflowError(f"{folder} has {free:.1f} GB free; {needed:.1f} may be taken by {purpose}.")
        yield f"{folder} has {free:.0f} GB free, {needed:.1f} may be taken"


def _names(params: Params, workspace: Workspace) -> Iterator[str]:
    require_known(params)
    yield f"methods {', '.join(params.benchmark.methods)}; datasets {', '.join(params.benchmark.datasets)}"


def _plugins(params: Params, workspace: Workspace) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for group in GROUPS:
        for entry in installed(group):
            assert entry.dist is not None, "entry points belong to distributions"
            what = f"{group.removeprefix('clflow.')} {entry.name}"
            found.setdefault(f"{entry.dist.name} {entry.dist.version}", []).append(what)
    for distribution, added in found.items():
        yield f"{distribution} adds {', '.join(added)}"


def _weights(params: Params, workspace: Workspace) -> Iterator[str]:
    wanted = [
        params.for_category(dataset, category, method).model
        for dataset in params.benchmark.datasets
        for category in params.data[dataset].categories
        for method in params.benchmark.methods
    ]
    # They import torch and timm, which take seconds.
    from clflow.features.backbone import Backbone
    from clflow.features.weights import find_weights

    for backbone, source, strides in sorted({(m.backbone, m.weights, m.strides) for m in wanted}):
        weights = find_weights(backbone, source)
        yield f"{backbone} from {weights.file or 'the hub'}, digest {Backbone(weights, strides).digest()[:12]}"


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
        with requests.get(url, stream=True, timeout=_PATIENCE) as response:
            return "ok" if response.ok else f"HTTP {response.status_code}"
    except requests.RequestException as error:
        return type(error).__name__


def _images(params: Params, workspace: Workspace) -> Iterator[str]:
    damaged = []
    for name in params.benchmark.datasets:
        for category in params.data[name].categories:
            try:
                found = _category(name, params.data[name], category, workspace)
            except DataError as error:
                damaged.append(str(error))
                continue
            if found is None:
                yield f"{name}/{category} is not here yet; fetch will check it"
                continue
            folder, rows = found
            train = rows["split"].tolist().count("train")
            yield f"{name}/{category}: {train} to train on, {len(rows) - train} to test"
            few = check_count(train, params.protocol.false_alarm_rate)
            for note in [*check_images(folder, category, rows), *filter(None, [few])]:
                yield Note(f"{name}/{category}: {note}")
    if damaged:
        raise DataError(" ".join(damaged))


def _category(name: str, dataset: Dataset, category: str, workspace: Workspace) -> tuple[Path, pd.DataFrame] | None:
    """Folder and sample table of a category, of its source if that is a folder, else of what was fetched."""
    entry, folder = find(name, dataset.layout), workspace.data(name)
    if dataset.source is not None and Path(dataset.source).is_dir():
        folder = source_root(entry, Path(dataset.source))
        rows = scan(folder, category, entry.normal, entry.complete)
        require_no_links([folder / category])
    elif (folder / FILE).exists():
        manifest = read_manifest(folder)
        rows = manifest.loc[manifest["category"] == category]
    else:
        return None
    return (folder, rows) if len(rows) else None


def _tracking(params: Params, workspace: Workspace) -> Iterator[str]:
    if not (os.environ.get("MLFLOW_TRACKING_URI") or workspace.mlflow_database.exists()):
        yield f"{workspace.mlflow_database}, which the first run makes"
        return
    from pipelines.tracking.tracker import Tracker

    tracker = Tracker.connect(params, workspace)
    tracker.require()
    yield tracker.uri
