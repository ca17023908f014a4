"""Running statistics of the scores that a model gives in use: one JSON file per model, to which many may add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from clflow.errors import DataError
from clflow.files import read_json, write_json
from pipelines.workspace.cells import MARKER

KEPT = 5000
"""Scores that a file holds at most, the last ones; the window of `clflow drift` is taken from them."""

FOLDER = "watch"
"""Name of the folder of these files, in a workspace or beside a prediction."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of all scores so far; ``variance`` is that of the population."""

    count: int
    mean: float
    variance: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> Statistics:
        """Statistics of one or more scores."""
        values = np.asarray(scores, dtype=np.float64)
        return cls(len(values), float(values.mean()), float(values.var()), float(values.min()), float(values.max()))

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of both together (Chan, Golub and LeVeque 1979, eq. 2.1): no sum of squares that could cancel."""
        count = self.count + other.count
        share = other.count / count
        apart = other.mean - self.mean
        return Statistics(
            count,
            self.mean + apart * share,
            self.variance * (1 - share) + other.variance * share + apart**2 * share * (1 - share),
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )


@dataclass(frozen=True)
class Model:
    """What is watched: a trained cell, and the scores of the normal images held out from its training."""

    dataset: str
    category: str
    key: str
    reference: tuple[float, ...]

    @classmethod
    def of_folder(cls, folder: Path) -> Model:
        """Read it from a cell's folder.

        Raises:
            DataError: the folder holds a detector, but not what its training left beside it.
        """
        cell, scores = cls.files(folder)
        record, held_out = read_json(cell), pd.read_csv(scores)
        normal = held_out.loc[held_out["label"] == 0, "image_score"]
        return cls(record["dataset"], record["category"], record["key"], tuple(normal.astype(float)))

    @staticmethod
    def files(folder: Path) -> tuple[Path, Path]:
        """What `of_folder` reads.

        Raises:
            DataError: one of them is missing.
        """
        paths = folder / MARKER, folder / "held_out.csv"
        for path in paths:
            if not path.is_file():
                raise DataError(f"{folder} lacks {path.name}; name the whole folder of a cell.")
        return paths

    @property
    def file_name(self) -> str:
        return f"{self.dataset}-{self.category}-{self.key[:12]}.json"


@dataclass(frozen=True)
class Watch:
    """A model, the statistics of its scores in use, the last `KEPT` of them, and when the last came."""

    model: Model
    statistics: Statistics
    recent: tuple[float, ...]
    updated: datetime

    @classmethod
    def begin(cls, model: Model, scores: Sequence[float]) -> Watch:
        """Begin with the first scores, at least one."""
        recent = tuple(float(score) for score in scores[-KEPT:])
        return cls(model, Statistics.of(scores), recent, datetime.now(UTC))

    def add(self, scores: Sequence[float]) -> Watch:
        """Add scores, at least one."""
        more = Watch.begin(self.model, scores)
        recent = (self.recent + more.recent)[-KEPT:]
        return Watch(self.model, self.statistics.merge(more.statistics), recent, more.updated)

    @classmethod
    def read(cls, path: Path) -> Watch:
        """Read a file that `record` wrote.

        Raises:
            DataError: it is none.
        """
        try:
            tree = read_json(path)
            model = Model(tree["dataset"], tree["category"], tree["key"], tuple(tree["reference"]))
            statistics = Statistics(**tree["statistics"])
            return cls(model, statistics, tuple(tree["recent"]), datetime.fromisoformat(tree["updated"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no file of watched scores ({error!r}); move it elsewhere.") from None

    def tree(self) -> dict[str, Any]:
        """The watch as JSON-able values."""
        return {
            "dataset": self.model.dataset,
            "category": self.model.category,
            "key": self.model.key,
            "updated": self.updated.isoformat(),
            "statistics": asdict(self.statistics),
            "reference": self.model.reference,
            "recent": self.recent,
        }


def record(folder: Path, model: Model, scores: Sequence[float]) -> None:
    """Add scores to the model's file in ``folder``; several processes may do so at the same time."""
    if not scores:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / model.file_name
    with FileLock(path.with_suffix(".lock")):
        watch = Watch.read(path).add(scores) if path.exists() else Watch.begin(model, scores)
        write_json(path, watch.tree())
