"""A cell: the unit that is planned, trained, scored, kept and tracked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clflow.cell import CELL_FILE
from clflow.files import read_json

MARKER = CELL_FILE
"""Written last: a folder with it is a complete cell."""

SCORED = "score.json"
"""The same for a folder of scores."""

EVAL_WEIGHTS = "eval_weights"
"""Sub-folder of a cell with the flow's weights at each evaluation, as ``<step>.safetensors``, where they are kept."""

EVAL_SCORES = "eval_scores.csv"
"""Image scores of the test images by those weights: a column per step."""


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
    def stem(self) -> str:
        """Name of the cell without its key."""
        return f"{self.category}-{self.method}-s{self.seed}"

    @property
    def name(self) -> str:
        """Name of the cell's folder and checkpoints."""
        return f"{self.stem}-{self.key[:12]}"


@dataclass(frozen=True)
class Selection:
    """Which cells a command works on: those of some categories, methods and seeds; None stands for all of them."""

    categories: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None

    def of(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of ``cells`` that are selected, in their order."""
        return [
            cell
            for cell in cells
            if (self.categories is None or cell.category in self.categories)
            and (self.methods is None or cell.method in self.methods)
            and (self.seeds is None or cell.seed in self.seeds)
        ]


ALL = Selection()


def is_complete(folder: Path, key: str, marker: str = MARKER) -> bool:
    """Whether a folder holds the complete result for a key."""
    return (folder / marker).is_file() and read_json(folder / marker)["key"] == key
