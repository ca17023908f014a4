"""A scored cell with its test images: verdicts, pictures of them, and those that a page shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from clflow import heatmap
from clflow.data.images import read_image, read_mask
from clflow.heatmap import Picture
from clflow.score import upsample
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import read_cell, read_scores

if TYPE_CHECKING:
    from clflow.config.schema import Protocol

VERDICTS = ("false alarm", "missed", "found", "passed")
"""The wrong ones first."""

_NAMES = {(1, True): "found", (1, False): "missed", (0, True): "false alarm", (0, False): "passed"}
_TRUTH = (0, 200, 83)
_AROUND = np.ones((5, 5), np.uint8)  # a line around a defect, not on its rim, leaves a small one visible
_TILE = 192  # pixels
_QUALITY = 65  # of WebP


@dataclass(frozen=True)
class ScoredCell:
    """One cell with its stored scores and everything that is needed to draw a test image."""

    cell: Cell
    scores: pd.DataFrame
    maps: NDArray[np.float32]
    image_threshold: float
    pixel_threshold: float
    median: float
    folder: Path
    mask_threshold: float

    @classmethod
    def load(cls, cell: Cell, protocol: Protocol, workspace: Workspace) -> ScoredCell:
        """From the folders of a cell and of its scores."""
        scores, maps = read_scores(cell, workspace)
        recorded = read_cell(cell, workspace)
        return cls(
            cell,
            scores,
            maps,
            recorded["image_threshold"],
            recorded["pixel_threshold"],
            recorded["median_pixel_score"],
            workspace.data(cell.dataset),
            protocol.mask_threshold,
        )

    @property
    def has_defects(self) -> bool:
        """Whether any test image is defective."""
        return 1 in self.scores["label"].tolist()

    def verdict(self, row: int) -> str:
        """One of `VERDICTS`, at the stored threshold."""
        score = float(self.scores.at[row, "image_score"])
        return _NAMES[int(self.scores.at[row, "label"]), score > self.image_threshold]

    def tiles(self, row: int, size: int) -> tuple[Picture, Picture, Picture]:
        """Image, the same with the outline of the truth, and the heat map, each uint8 (size, size, 3)."""
        image = self.image(row, size)
        truth = heatmap.outline(image.copy(), self._around_defect(row, size), _TRUTH, width=2)
        return image, truth, self.heat_map(row, image)

    def image(self, row: int, size: int) -> Picture:
        """A test image, uint8 (size, size, 3)."""
        return read_image(self.folder / self.scores.at[row, "path"], size)

    def heat_map(self, row: int, image: Picture) -> Picture:
        """The score map over its image, of the same shape."""
        score_map = upsample(self.maps[[row]], len(image))[0]
        return heatmap.overlay(image, score_map, self.median, self.pixel_threshold)

    def truth_path(self, row: int, size: int) -> str:
        """The outline of the truth as an SVG path in pixels of a square of the size; empty without a mask."""
        region = self._around_defect(row, size).astype(np.uint8)
        contours, _ = cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        simple = (cv2.approxPolyDP(contour, 0.8, True).reshape(-1, 2).tolist() for contour in contours)
        return "".join("M" + "L".join(f"{x} {y}" for x, y in points) + "Z" for points in simple)

    def _around_defect(self, row: int, size: int) -> NDArray[np.bool_]:
        """Bool (size, size)."""
        mask = self.scores.at[row, "mask"]
        if not mask:
            return np.zeros((size, size), bool)
        defective = read_mask(self.folder / mask, size, self.mask_threshold)
        return cv2.dilate(defective.astype(np.uint8), _AROUND) > 0


@dataclass
class Pictures:
    """Pictures of test images for a page, as data URIs.

    Attributes:
        size: side of a picture, in pixels.
        images: path of an image below its dataset's folder to the picture and the path of its truth, by dataset.
        heat_maps: row of a test image to its heat map, by cell, in the order of `browsed`.
        characters: how many they take.
    """

    size: int = _TILE
    images: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    heat_maps: dict[Cell, dict[int, str]] = field(default_factory=dict)
    characters: int = 0

    @classmethod
    def of(cls, shown: Sequence[ScoredCell], each: int, characters: int) -> Pictures:
        """Of up to ``each`` test images of each cell, all cells alike, until they take this many characters."""
        pictures = cls()
        for scored in shown:
            pictures.images.setdefault(scored.cell.dataset, {})
            pictures.heat_maps[scored.cell] = {}
        rounds = zip_longest(*(browsed(scored)[:each] for scored in shown))
        for scored, row in (pair for rows in rounds for pair in zip(shown, rows, strict=True)):
            if pictures.characters >= characters:
                break
            if row is not None:
                pictures._add(scored, row)
        return pictures

    def _add(self, scored: ScoredCell, row: int) -> None:
        images, path = self.images[scored.cell.dataset], scored.scores.at[row, "path"]
        image = scored.image(row, self.size)
        heat_map = _data_uri(scored.heat_map(row, image))
        self.heat_maps[scored.cell][row] = heat_map
        self.characters += len(heat_map)
        if path not in images:
            images[path] = _data_uri(image), scored.truth_path(row, self.size)
            self.characters += sum(map(len, images[path]))


def browsed(scored: ScoredCell) -> list[int]:
    """Rows of test images in the order in which they are worth a look.

    Verdicts take turns. Of wrong ones those farthest from the threshold come first, of right ones those nearest to it.
    """
    queues: dict[str, list[int]] = {verdict: [] for verdict in VERDICTS}
    distances = np.abs(scored.scores["image_score"].to_numpy() - scored.image_threshold)
    for row in np.argsort(distances, kind="stable").tolist():
        queues[scored.verdict(row)].append(row)
    wrong, right = VERDICTS[:2], VERDICTS[2:]
    turns = zip_longest(*(queues[name][::-1] for name in wrong), *(queues[name] for name in right))
    return [row for turn in turns for row in turn if row is not None]


def first_of_each(cells: Sequence[Cell]) -> Iterator[Cell]:
    """The first cell, so the first seed, of each category and method."""
    seen = set()
    for cell in cells:
        if (name := (cell.dataset, cell.category, cell.method)) not in seen:
            seen.add(name)
            yield cell


def _data_uri(picture: Picture) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
