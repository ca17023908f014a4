"""Running statistics of the scores that a model gives in use: one JSON file per model, to which many may add.

An image counts once, however often it is scored: it is known by a hash of what the detector sees of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from clflow.errors import DataError
from clflow.files import read_json, write_json
from clflow.heatmap import Picture
from pipelines.workspace.cells import MARKER
from pipelines.workspace.person import person

KEPT = 5000
"""Images that a file remembers at most, the last ones; the window of `clflow drift` is taken from them, and one that
comes again after so many others counts again."""

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


def content(pixels: Picture) -> str:
    """What an image is known by: a hash of its pixels (S, S, 3) as the detector sees them."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Model:
    """What is watched: a trained cell, and the scores of the images that its thresholds were calibrated on."""

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
class Acceptance:
    """That somebody confirmed images as good; ``at`` is UTC, in ISO format."""

    by: str
    at: str
    images: int


@dataclass(frozen=True)
class Watch:
    """A model and its scores in use.

    Attributes:
        model: that gave the scores.
        statistics: of all images so far.
        recent: scores of the last `KEPT` images by their content, the last one last.
        accepted: the same of images that were confirmed good; they are references, too.
        acceptances: who confirmed them.
        updated: when the last score came.
    """

    model: Model
    statistics: Statistics
    recent: dict[str, float]
    accepted: dict[str, float]
    acceptances: tuple[Acceptance, ...]
    updated: datetime

    @property
    def references(self) -> tuple[float, ...]:
        """What new scores are compared with."""
        return (*self.model.reference, *self.accepted.values())

    @classmethod
    def begin(cls, model: Model, scores: Mapping[str, float]) -> Watch:
        """Begin with the first scores by content, at least one."""
        return cls(model, Statistics.of([*scores.values()]), _last(scores), {}, (), datetime.now(UTC))

    def add(self, scores: Mapping[str, float]) -> Watch:
        """Add scores by content; of images that are known already, the first score counts."""
        known = self.recent.keys() | self.accepted.keys()
        fresh = {content: score for content, score in scores.items() if content not in known}
        now = datetime.now(UTC)
        if not fresh:
            return replace(self, updated=now)
        statistics = self.statistics.merge(Statistics.of([*fresh.values()]))
        return replace(self, statistics=statistics, recent=_last(self.recent | fresh), updated=now)

    def accept(self, scores: Mapping[str, float]) -> Watch:
        """Take images, by content, for good: they become references, and count as recent no longer."""
        fresh = {content: score for content, score in scores.items() if content not in self.accepted}
        made = Acceptance(person(), datetime.now(UTC).isoformat(timespec="seconds"), len(fresh))
        return replace(
            self,
            recent={content: score for content, score in self.recent.items() if content not in fresh},
            accepted=self.accepted | fresh,
            acceptances=(*self.acceptances, made),
        )

    @classmethod
    def read(cls, path: Path) -> Watch:
        """Read a file that `record` wrote.

        Raises:
            DataError: it is none.
        """
        try:
            tree = read_json(path)
            return cls(
                Model(tree["dataset"], tree["category"], tree["key"], tuple(tree["reference"])),
                Statistics(**tree["statistics"]),
                dict(tree["recent"]),
                dict(tree["accepted"]),
                tuple(Acceptance(**each) for each in tree["acceptances"]),
                datetime.fromisoformat(tree["updated"]),
            )
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
            "acceptances": [asdict(each) for each in self.acceptances],
            "accepted": self.accepted,
            "recent": self.recent,
        }


def record(folder: Path, model: Model, scores: Mapping[str, float]) -> None:
    """Add scores, by the content of their images, to the model's file in ``folder``; several processes may do so at the
    same time."""
    if not scores:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / model.file_name
    with FileLock(path.with_suffix(".lock")):
        watch = Watch.read(path).add(scores) if path.exists() else Watch.begin(model, scores)
        write_json(path, watch.tree())


def accept(folder: Path, confirmed: Path) -> list[Watch]:
    """Take the images that one folder watches for good, and make them references of the same models in another one,
    which may be the same folder; returns what is watched now.

    Raises:
        DataError: nothing is watched in ``confirmed``, or not by the same models in ``folder``.
    """
    paths = watched(confirmed)
    for path in paths:
        if not (folder / path.name).exists():
            raise DataError(f"{folder} watches no scores of the model of {path}; score other images with it first.")
    made = []
    for path in paths:
        scores, target = Watch.read(path).recent, folder / path.name
        with FileLock(target.with_suffix(".lock")):
            made.append(Watch.read(target).accept(scores))
            write_json(target, made[-1].tree())
    return made


def watched(folder: Path) -> list[Path]:
    """The files of watched scores in a folder, at least one.

    Raises:
        DataError: there is none.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise DataError(f"{folder} holds no watched scores; name the folder watch/ of a prediction or a workspace.")
    return paths


def _last(scores: Mapping[str, float]) -> dict[str, float]:
    return {content: float(score) for content, score in [*scores.items()][-KEPT:]}
