"""Galleries: what a detector gets right and wrong, as image, ground truth and heat map side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from clflow import heatmap
from clflow.files import folder_atomically
from clflow.heatmap import Picture
from pipelines.reporting.cases import VERDICTS, ScoredCell
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import count_images, missing_images

if TYPE_CHECKING:
    from clflow.config.schema import Protocol

_CASES = 4  # of each kind on a sheet
_TILE = 128  # pixels
_GAP, _SPACE, _MARGIN = 2, 14, 16
_TEXT, _FAINT, _RIGHT, _WRONG = "#1a1a1a", "#666666", "#1b7837", "#c51b1b"


def write(aggregated: list[Cell], protocol: Protocol, workspace: Workspace) -> None:
    """Write reports/gallery: <dataset>/<category>.png, overview.png and index.md.

    Each category is shown by the first of its cells: the first method and seed that were asked for. One without test
    images has no sheet, and one without defective ones is not in the overview, which needs at least one that is.
    """
    first: dict[tuple[str, str], Cell] = {}
    for cell in aggregated:
        first.setdefault((cell.dataset, cell.category), cell)
    detectors = [ScoredCell.load(cell, protocol, workspace) for cell in first.values()]
    with folder_atomically(workspace.gallery) as folder:
        for detector in detectors:
            if len(detector.scores):
                (folder / detector.cell.dataset).mkdir(exist_ok=True)
                _save(sheet(detector), folder / detector.cell.dataset / f"{detector.cell.category}.png")
        with_defects = [detector for detector in detectors if detector.has_defects]
        if with_defects:
            _save(overview(with_defects), folder / "overview.png")
        (folder / "index.md").write_text(_index(detectors), encoding="utf-8")


def cell_sheet(cell: Cell, protocol: Protocol, workspace: Workspace) -> Image.Image:
    """The sheet of one cell, whichever its method and seed."""
    return sheet(ScoredCell.load(cell, protocol, workspace))


def sheet(detector: ScoredCell) -> Image.Image:
    """Rows of cases, as far as there are such: defects of the highest and the lowest scores, normals of the highest."""
    kinds = extremes(detector.scores)
    width = 2 * _MARGIN + _CASES * _case_width(_TILE) + (_CASES - 1) * _SPACE
    row_height = 22 + _TILE + 34
    page = Image.new("RGB", (width, 72 + len(kinds) * row_height), "white")
    draw = ImageDraw.Draw(page)
    cell = detector.cell
    draw.text((_MARGIN, 12), f"{cell.dataset} / {cell.category}", _TEXT, _font(18, bold=True))
    draw.text((width - _MARGIN, 15), f"{cell.method}, seed {cell.seed}", _FAINT, _font(13), anchor="ra")
    explanation = f"Each case: image, ground truth, heat map; its score against the image threshold. {heatmap.LEGEND}"
    draw.text((_MARGIN, 42), explanation, _FAINT, _font(12))
    for number, (title, rows) in enumerate(kinds.items()):
        y = 72 + number * row_height
        draw.text((_MARGIN, y), title, _TEXT, _font(13, bold=True))
        for place, row in enumerate(rows):
            x = _MARGIN + place * (_case_width(_TILE) + _SPACE)
            _paste_row(page, detector.tiles(row, _TILE), (x, y + 22))
            text, colour = _verdict(detector, row)
            draw.text((x, y + 22 + _TILE + 4), text, colour, _font(12))
    return page


def overview(detectors: list[ScoredCell]) -> Image.Image:
    """One defect of each category, the one of median score, so neither a good nor a bad example: columns."""
    columns = min(len(detectors), 9)
    size = 112 if columns > 5 else 208
    lines = -(-len(detectors) // columns)
    left, heading, bottom = 84, 26, 42
    block = heading + 3 * (size + _GAP) + 10
    width = max(left + columns * (size + 6) + 6, 360)
    page = Image.new("RGB", (width, lines * block + bottom), "white")
    draw = ImageDraw.Draw(page)
    for number, detector in enumerate(detectors):
        line, column = divmod(number, columns)
        x, y = left + column * (size + 6), line * block + heading
        draw.text((x + size / 2, y - 6), detector.cell.category, _TEXT, _font(13, bold=True), anchor="ms")
        for place, tile in enumerate(detector.tiles(_median_defect(detector.scores), size)):
            page.paste(Image.fromarray(tile), (x, y + place * (size + _GAP)))
        if column == 0:
            for place, title in enumerate(("image", "truth", "heat map")):
                middle = y + place * (size + _GAP) + size / 2
                draw.text((left - 10, middle), title, _FAINT, _font(13), anchor="rm")
    note = "The defect of median score in each category.\nDark line: pixel threshold, set without test images."
    draw.multiline_text((12, lines * block + 2), note, _FAINT, _font(12))
    return page


def extremes(scores: pd.DataFrame) -> dict[str, list[int]]:
    """Title of each row of a sheet to the rows of ``scores`` it shows; no defect is shown twice."""
    ranked = scores.sort_values(["image_score", "path"], ascending=[False, True])
    defects = list(ranked.loc[ranked["label"] == 1].index)
    normals = list(ranked.loc[ranked["label"] == 0].index)
    highest = defects[: min(_CASES, (len(defects) + 1) // 2)]
    lowest = defects[len(highest) :][::-1][:_CASES]
    kinds = {
        "Defects with the highest scores": highest,
        "Defects with the lowest scores": lowest,
        "Normal images with the highest scores": normals[:_CASES],
    }
    return {title: rows for title, rows in kinds.items() if rows}


def _median_defect(scores: pd.DataFrame) -> int:
    """The defect of median score among those with a mask, or among all where none has one."""
    defects = scores.loc[scores["label"] == 1]
    with_mask = defects.loc[defects["mask"] != ""]
    ranked = (defects if with_mask.empty else with_mask).sort_values(["image_score", "path"])
    return int(ranked.index[len(ranked) // 2])


def _verdict(detector: ScoredCell, row: int) -> tuple[str, str]:
    verdict, score, threshold = (
        detector.verdict(row),
        float(detector.scores.at[row, "image_score"]),
        detector.image_threshold,
    )
    sign = ">" if score > threshold else "≤"
    text = f"{detector.scores.at[row, 'defect']}: {score:.3g} {sign} {threshold:.3g}, {verdict}"
    return text, _WRONG if verdict in VERDICTS[:2] else _RIGHT


def _case_width(size: int) -> int:
    return 3 * size + 2 * _GAP


def _paste_row(page: Image.Image, tiles: tuple[Picture, ...], corner: tuple[int, int]) -> None:
    for place, tile in enumerate(tiles):
        page.paste(Image.fromarray(tile), (corner[0] + place * (tile.shape[1] + _GAP), corner[1]))


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib ships, so that a sheet looks the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _save(page: Image.Image, path: Path) -> None:
    # A palette keeps textured categories below half a megabyte; k-means keeps the rare colours of heat maps.
    page.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def _index(detectors: list[ScoredCell]) -> str:
    lines = ["# Gallery", "", f"{heatmap.LEGEND} Nothing here was chosen by hand.", ""]
    if any(detector.has_defects for detector in detectors):
        lines += ["![Overview](overview.png)", ""]
    for detector in detectors:
        cell, scores = detector.cell, detector.scores
        lines += [f"## {cell.dataset} / {cell.category}", ""]
        if len(scores):
            lines += [f"![]({cell.dataset}/{cell.category}.png)", ""]
        missing = missing_images(*count_images(scores))
        if missing:
            lines += [f"It has {missing}.", ""]
    return "\n".join(lines)
