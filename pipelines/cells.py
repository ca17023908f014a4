"""The plan: which cells the parameters ask for, and the key that names each by all that determines it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clflow.data.manifest import category_rows, data_hash, read_manifest
from clflow.errors import DataError
from clflow.files import fingerprint, read_json
from clflow.methods import find_method
from clflow.model.backbone import find_weights
from clflow.params import Params
from clflow.provenance import source_hash

CODE = (
    "methods",
    "model",
    "fit.py",
    "fitdata.py",
    "cache.py",
    "score.py",
    "data/images.py",
    "data/manifest.py",
)
"""Modules of clflow that determine a trained cell; dvc.yaml lists the same for the train stage."""

MARKER = "cell.json"
"""Written last: a folder with it is a complete cell."""


@dataclass(frozen=True)
class Cell:
    """One (dataset, category, method, seed), and the hash of everything that determines its result."""

    dataset: str
    category: str
    method: str
    seed: int
    key: str
    train_images: int

    @property
    def name(self) -> str:
        """Name of the cell's folder, Ray run and MLflow run."""
        return f"{self.category}-{self.method}-s{self.seed}-{self.key[:12]}"


def plan(params: Params, workspace: Path, datasets: tuple[str, ...] | None = None) -> list[Cell]:
    """All cells of the benchmark, or of some of its datasets, in the order of params.yaml.

    Raises:
        DataError: a dataset or its synthetic anomalies are not there yet.
        ParameterError, WeightsError: a method, backbone or weights file does not exist.
    """
    code = source_hash(*CODE)
    cells = []
    for dataset in datasets or params.benchmark.datasets:
        manifest = read_manifest(workspace / "data" / dataset)
        for category in params.data[dataset].categories:
            own = params.for_category(dataset, category)
            rows = category_rows(manifest, category, "train")
            content = {
                "code": code,
                "data": data_hash(rows),
                "synthetic": synthetic_hash(workspace, dataset, category),
                "weights": find_weights(own.model.backbone, own.model.weights).identity(),
                "protocol": own.protocol.model_dump(include={"image_size", "holdout", "threshold_quantile"}),
                "model": own.model.model_dump(exclude={"weights"}),
                "loss": own.loss.model_dump(),
                "train": own.train.model_dump(),
                "workers": own.resources.workers_per_cell,  # they share a batch, so each sees another boundary
            }
            for method in params.benchmark.methods:
                find_method(method)
                for seed in params.benchmark.seeds:
                    key = fingerprint([dataset, category, method, seed, content])
                    cells.append(Cell(dataset, category, method, seed, key, len(rows)))
    return cells


def synthetic_hash(workspace: Path, dataset: str, category: str) -> str:
    """Hash of a category's synthetic anomalies."""
    path = workspace / "synthetic" / dataset / category / "synthesis.json"
    try:
        return read_json(path)["content_sha256"]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run `clflow synthesize --dataset {dataset}` first.") from None


def is_complete(folder: Path, key: str, marker: str = MARKER) -> bool:
    """Whether a folder holds the complete result for a key."""
    return (folder / marker).is_file() and read_json(folder / marker)["key"] == key
