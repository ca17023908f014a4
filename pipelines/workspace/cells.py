"""The plan: which cells the parameters ask for, and the key that names each by all that determines it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clflow.config.params import Params
from clflow.data.manifest import category_rows, data_hash, read_manifest
from clflow.errors import DataError
from clflow.features.weights import find_weights
from clflow.files import fingerprint, read_json
from clflow.methods import find_method
from clflow.methods.protocol import Method
from clflow.provenance import source_hash

CODE = (
    "methods",
    "model",
    "features",
    "training",
    "chunks.py",
    "precision.py",
    "randomness.py",
    "score.py",
    "data/images.py",
    "data/manifest.py",
)
"""Modules of clflow that determine a trained cell; dvc.yaml lists the same for the train stage."""

MARKER = "cell.json"
"""Written last: a folder with it is a complete cell."""

SCORED = "score.json"
"""The same for a folder of scores."""

EVAL_WEIGHTS = "eval_weights"
"""Sub-folder of a cell with the flow's weights at each evaluation, as ``<step>.safetensors``, where they are kept."""

EVAL_SCORES = "eval_scores.csv"
"""Image scores of the test images by those weights: a column per step."""

PROTOCOL = ("image_size", "holdout", "threshold_quantile")
"""The part of the protocol that determines a trained cell; the rest determines its metrics."""


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
        """Name of the cell's folder, checkpoints and MLflow run."""
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
            rows = category_rows(manifest, category, "train")
            found = {"code": code, "data": data_hash(rows)}
            for method in params.benchmark.methods:
                trains = find_method(method)
                made = synthetic_hash(workspace, dataset, params.synthetic_set(category, method))
                given = params.for_category(dataset, category, method)
                content = found | {"synthetic": made} | key_inputs(given, trains)
                for seed in params.benchmark.seeds:
                    key = fingerprint([dataset, category, method, seed, content])
                    cells.append(Cell(dataset, category, method, seed, key, len(rows)))
    return cells


def key_inputs(params: Params, method: Method) -> dict[str, Any]:
    """What parameters and weights contribute to a trained cell of a method, as JSON-able values."""
    return {
        "weights": weights_identity(params.model.backbone, params.model.weights),
        "protocol": params.protocol.model_dump(include=set(PROTOCOL)),
        "model": params.model.model_dump(exclude={"weights"}),
        "sections": params.model_dump(include=set(method.sections)),
        "workers": params.resources.workers_per_cell,  # they share a batch, so each sees another boundary
    }


@cache
def weights_identity(backbone: str, weights: str) -> str:
    """What names a backbone's weights; a file is hashed once."""
    return find_weights(backbone, weights).identity()


def synthetic_hash(workspace: Path, dataset: str, name: str) -> str:
    """Hash of a set of synthetic anomalies, named as by `Params.synthetic_set`."""
    path = workspace / "synthetic" / dataset / name / "synthesis.json"
    try:
        return read_json(path)["content_sha256"]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run `clflow synthesize --dataset {dataset}` first.") from None


def is_complete(folder: Path, key: str, marker: str = MARKER) -> bool:
    """Whether a folder holds the complete result for a key."""
    return (folder / marker).is_file() and read_json(folder / marker)["key"] == key
