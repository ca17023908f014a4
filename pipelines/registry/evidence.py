"""Evidence of a model: metrics, the images and the protocol they were measured on, and hashes of its files.

It is read from a workspace, where it must match manifest and parameters, and stored with the model's run in MLflow, so
that another machine can judge the model without either.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clflow.config.params import Params
from clflow.config.schema import VALIDATION
from clflow.data.manifest import category_rows, data_hash, read_manifest
from clflow.errors import DataError, PromotionError
from clflow.files import file_sha256, fingerprint, read_json, write_json
from clflow.metrics import IMAGE_METRICS, METRICS, image_metrics
from clflow.rates import rates_at
from pipelines.workspace import cells
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import (
    cells_of,
    has_both_classes,
    is_scored,
    missing_images,
    read_cell,
    read_history,
    read_table,
)

FILE, SCORES = "evidence.json", "scores.csv"
CALIBRATED = ("calibration_images", "expected_false_alarm_rate")
"""Figures of the stored threshold: number of calibration images and expected false alarm rate."""

_IMAGE = ["path", "label"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Measurements and provenance of a cell's model.

    Attributes:
        cell: the cell.
        commit: of the code that trained it.
        data_hash: of its training images.
        test_hash: of the test images that were scored.
        protocol: block of the parameters under which it was measured.
        metrics: figures that exist: metrics of the test images, rates at the stored threshold with their bounds, those
            of `CALIBRATED`, and figures of validation. Without any mask there are no pixel metrics, and so on.
        files: path in the cell's folder to SHA-256.
        scores: ``path``, ``label`` and ``image_score`` of every test image; there may be none.
    """

    cell: Cell
    commit: str
    data_hash: str
    test_hash: str
    protocol: dict[str, Any]
    metrics: dict[str, float]
    files: dict[str, str]
    scores: pd.DataFrame

    @property
    def protocol_hash(self) -> str:
        return fingerprint(self.protocol)

    @property
    def record(self) -> str:
        """Hash of cell.json; it differs between two trainings of the same cell."""
        return self.files[cells.MARKER]

    @property
    def missing(self) -> str:
        """Which test images are missing, so that some metrics do not exist; empty if none."""
        labels = self.scores["label"].to_numpy()
        return missing_images(int((labels == 0).sum()), int((labels == 1).sum()), int("pixel_auroc" in self.metrics))

    def write(self, folder: Path) -> None:
        """Write evidence.json and scores.csv."""
        table = folder / SCORES
        self.scores.to_csv(table, index=False, lineterminator="\n")
        record = asdict(self) | {"protocol_hash": self.protocol_hash, "scores": file_sha256(table)}
        write_json(folder / FILE, record)

    @classmethod
    def read(cls, folder: Path) -> Evidence:
        """Read what `write` wrote.

        Raises:
            PromotionError: a file is missing, or the two do not fit together.
        """
        try:
            record = read_json(folder / FILE)
            if record.pop("scores") != file_sha256(folder / SCORES):
                raise PromotionError("the stored scores are not those that the evidence was written with.")
        except FileNotFoundError as error:
            raise PromotionError(f"the model has no evidence ({Path(str(error.filename)).name} is missing).") from None
        if record.pop("protocol_hash") != fingerprint(record["protocol"]):
            raise PromotionError("the protocol in the evidence is not the one that its hash is of.")
        return cls(**record | {"cell": Cell(**record["cell"])}, scores=_read_scores(folder / SCORES))

    def require_files(self, found: dict[str, str], where: str) -> None:
        """Check that a copy of the model has the same files.

        Raises:
            PromotionError: it has not; the message names the first file that differs.
        """
        for name in sorted(self.files.keys() | found.keys()):
            if self.files.get(name) != found.get(name):
                raise PromotionError(
                    f"{name} of cell {self.cell.name} is not the same {where}; restore the one that was changed."
                )

    def require_protocol(self, params: Params) -> None:
        """Check that it was measured under the protocol of the parameters.

        Raises:
            PromotionError: it was not; the message names what differs.
        """
        wanted = params.protocol.model_dump(mode="json")
        _require_same_protocol(self.protocol, wanted, "measured", "measure it so, or correct params.yaml")


def file_hashes(folder: Path) -> dict[str, str]:
    """Relative path and SHA-256 of every file in a model's folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def of_workspace(params: Params, dataset: str, category: str, workspace: Workspace) -> Evidence:
    """Evidence of a category's cell that ``promotion`` names.

    Raises:
        PromotionError: the cell is not trained, scored and aggregated, or does not match the manifest or the protocol.
        DataError: there is no manifest or no table of results.
    """
    cell, row = _aggregated(params, dataset, category, workspace)
    if not is_scored(cell, workspace):
        raise PromotionError(f"cell {cell.name} is not trained and scored; run `dvc repro` first.")
    record, protocol = read_cell(cell, workspace), params.protocol.model_dump(mode="json")
    trained_with = record["inputs"]["parameters"]
    wanted = {key: protocol[key] for key in protocol if f"protocol.{key}" in trained_with}
    have = {key: trained_with[f"protocol.{key}"] for key in wanted}
    _require_same_protocol(have, wanted, "trained", "train it again")
    if read_json(workspace.protocol)["hash"] != fingerprint(protocol):
        raise PromotionError("the metrics are of another protocol than params.yaml describes; aggregate again.")
    manifest = read_manifest(workspace.data(dataset))
    if record["data_hash"] != data_hash(category_rows(manifest, category, "train")):
        raise PromotionError(
            f"cell {cell.name} was trained with other images than the manifest lists (data hash "
            f"{record['data_hash'][:12]}); train it again."
        )
    test = category_rows(manifest, category, "test")
    folder = workspace.score(cell)
    test_hash, scores = data_hash(test), _read_scores(folder / SCORES)
    if read_json(folder / cells.SCORED)["test_hash"] != test_hash or not scores[_IMAGE].equals(test[_IMAGE]):
        raise PromotionError(
            f"the scores of cell {cell.name} are of other test images than the manifest lists; evaluate it again."
        )
    return Evidence(
        cell=cell,
        commit=record["commit"],
        data_hash=record["data_hash"],
        test_hash=test_hash,
        protocol=protocol,
        metrics=_metrics(cell, row, scores, record["image_threshold"])
        | {name: float(record[name]) for name in CALIBRATED}
        | _validation(cell, workspace),
        files=file_hashes(workspace.run(cell)),
        scores=scores,
    )


def _aggregated(params: Params, dataset: str, category: str, workspace: Workspace) -> tuple[Cell, dict[Any, Any]]:
    """The cell that ``promotion`` names, and its row of cells.csv."""
    table = read_table(workspace.cells_table)
    method, seed = params.promotion.method, params.promotion.seed
    of_category = (table["dataset"] == dataset) & (table["category"] == category)
    rows = table.loc[of_category & (table["method"] == method) & (table["seed"] == seed)]
    if rows.empty:
        raise PromotionError(
            f"reports/cells.csv has no cell of method {method!r} and seed {seed}, which promotion names; "
            "list both in benchmark and run `dvc repro` first."
        )
    (cell,) = cells_of(rows)
    return cell, rows.to_dict("records")[0]


def _metrics(cell: Cell, row: dict[Any, Any], scores: pd.DataFrame, threshold: float) -> dict[str, float]:
    """Image metrics and rates computed from scores; pixel metrics from a row of cells.csv of the same scores."""
    labels, image_scores = scores["label"].to_numpy(), scores["image_score"].to_numpy()
    try:
        of_images = image_metrics(labels, image_scores) if has_both_classes(scores) else {}
        computed = dict.fromkeys(IMAGE_METRICS, np.nan) | of_images | rates_at(threshold, labels, image_scores)
    except (ValueError, DataError) as error:
        raise PromotionError(f"the metrics of cell {cell.name} cannot be computed: {error}") from None
    if not all(np.isclose(row[name], value, rtol=0, atol=1e-9, equal_nan=True) for name, value in computed.items()):
        raise PromotionError(f"reports/cells.csv is of other scores than cell {cell.name} has now; aggregate again.")
    figures = {name: row[name] for name in METRICS} | computed
    return {name: float(value) for name, value in figures.items() if pd.notna(value)}


def _validation(cell: Cell, workspace: Workspace) -> dict[str, float]:
    """Validation metrics at the end of training."""
    last = read_history(cell, workspace).iloc[-1]
    return {name: float(last[name]) for name in VALIDATION if name in last}


def _require_same_protocol(have: dict[str, Any], wanted: dict[str, Any], verb: str, advice: str) -> None:
    for key in sorted(have.keys() | wanted.keys()):
        if have.get(key) != wanted.get(key):
            raise PromotionError(
                f"the model was {verb} with protocol.{key} {have.get(key)}, but params.yaml says {wanted.get(key)}; "
                f"{advice}."
            )


def _read_scores(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.loc[:, [*_IMAGE, "image_score"]].astype({"label": int, "image_score": float})
