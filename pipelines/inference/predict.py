"""``clflow predict``: scores, verdicts and heat maps of images that nobody has judged yet.

Reading the next images, scoring, and writing the last heat maps run at the same time, and only a few batches of images
are in memory, however many there are.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.progress import track

from clflow import heatmap
from clflow.data.images import EXTENSIONS, is_named_like_an_image, open_rgb, resize_to_square
from clflow.errors import ClflowError, DataError
from clflow.export import holds_export
from clflow.files import TEMPORARY, fingerprint
from clflow.heatmap import Picture
from clflow.judge import Judge, best_device
from clflow.prefetch import prefetch
from clflow.score import upsample
from pipelines.inference import watch
from pipelines.registry.locate import SCHEME, local_folder
from pipelines.workspace.outputs import Outputs
from pipelines.workspace.paths import Workspace

_log = logging.getLogger(__name__)

TableFormat = Literal["csv", "parquet"]

_BATCH = 16
HEAT_MAPS = "heat_maps"
LONGEST = 1600  # pixels of a heat map's longer side; larger ones take longer to draw than to score
_AHEAD = 2 * _BATCH  # images between two steps
_THREADS = 2  # of reading, and of writing


def run(
    reference: str,
    sources: str | Sequence[str],
    out: Path,
    table_format: TableFormat,
    threshold: float | None = None,
    false_alarm_rate: float | None = None,
) -> None:
    """Score images with a detector or its exported graph: ``scores.csv`` (or ``.parquet``), ``heat_maps/``, ``watch/``.

    The table has a row per image: its ``path`` below the source, or below the folder that several sources share,
    ``image_score``, ``threshold``, ``anomalous`` and ``error``. An image that cannot be read has no score and counts as
    anomalous: it must not pass for good because nobody could look at it. Scores are added to those that ``out`` already
    watches. The same call replaces what it wrote to ``out`` before.

    Args:
        reference: of the model, see `pipelines.registry.locate.local_folder`, or the folder of an exported graph;
            MLflow's database is sought in the current folder.
        sources: each a folder, which is searched with all below it, an image, or a glob pattern.
        out: folder to write to.
        table_format: of the table.
        threshold: of the image score, in place of the stored one; the line in heat maps stays at the stored threshold
            of pixels.
        false_alarm_rate: that the threshold of the image score is to keep, in place of the stored threshold.

    Raises:
        DataError: there are no images; or, when all is written, some cannot be read.
        ClflowError: the model is unavailable, the threshold is no number, the model's calibration images are too few
            for the false alarm rate, or ``out`` holds a file that would be
            replaced and is of somebody else.
    """
    if threshold is not None and not math.isfinite(threshold):
        raise ClflowError(f"--threshold {threshold} is no number that a score can be compared with; correct it.")
    if out.exists() and not out.is_dir():
        raise ClflowError(f"--out {out} is a file; name a folder.")
    sources = [sources] if isinstance(sources, str) else sources
    root, paths = find_images(sources, out)
    table_name = f"scores.{table_format}"
    model_name = reference if reference.startswith(SCHEME) else str(Path(reference).resolve())
    command, outputs = f"clflow predict --model {model_name} {_named(sources)}", Outputs(out)
    pictures = name_heat_maps([_name(path, root) for path in paths])
    outputs.require(command, (table_name, *(f"{HEAT_MAPS}/{picture}" for picture in pictures.values())))
    with tempfile.TemporaryDirectory() as download:
        graph = Path(reference)
        folder = graph if holds_export(graph) else local_folder(reference, Workspace(Path.cwd()), Path(download))
        model = watch.Model.of_folder(folder)
        judge = Judge.of_folder(folder, best_device())
    stored = judge.thresholds.image
    applied = judge.thresholds.image_at(threshold, false_alarm_rate)
    judge = replace(judge, thresholds=replace(judge.thresholds, image=applied))
    with outputs.replace(command) as folder:
        table = _predict(judge, root, paths, {name: folder / HEAT_MAPS / picture for name, picture in pictures.items()})
        path = folder / table_name
        contents = table.pop("content")
        table.to_csv(path, index=False) if table_format == "csv" else table.to_parquet(path, index=False)
    path = out / table_name
    scores = {known: score for known, score in zip(contents, table["image_score"], strict=True) if known}
    watch.record(out / watch.FOLDER, model, scores)

    unread = table.loc[table["error"] != ""]
    given = "" if threshold is None and false_alarm_rate is None else f", in place of {stored:.4g}"
    print(
        f"{model.dataset}/{model.category}: {len(table)} images, {table['anomalous'].sum()} anomalous at threshold "
        f"{applied:.4g}{given}; {path}"
    )
    if len(unread):
        raise DataError(
            f"{len(unread)} of {len(table)} images could not be read and count as anomalous (first: "
            f"{unread['path'].iloc[0]}); {path} says why. All others are scored."
        )


def _named(sources: Sequence[str]) -> str:
    """Sources as a record names them; a shell makes thousands of a pattern that is not quoted."""
    first, *others = [str(Path(source).absolute()) for source in sources]
    return f"{first} and {len(others)} more ({fingerprint([first, *others])[:12]})" if others else first


def find_images(sources: Sequence[str], out: Path) -> tuple[Path, list[Path]]:
    """The folder that paths are relative to, and the images, sorted; not those that an earlier call wrote to ``out``.

    Raises:
        DataError: one of the sources holds none.
    """
    found = [_images_of(source, out) for source in sources]
    if len(found) == 1:
        return found[0]
    paths = {path.absolute() for _, images in found for path in images}
    return Path(os.path.commonpath([root.absolute() for root, _ in found])), sorted(paths)


def _images_of(source: str, out: Path) -> tuple[Path, list[Path]]:
    path = Path(source)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        root, found = path, path.rglob("*")
    else:
        fixed = list(takewhile(lambda part: not re.search(r"[*?[]", part), path.parts))
        root, pattern = Path(*fixed), path.parts[len(fixed) :]
        found = root.glob(str(Path(*pattern))) if pattern else ()
    written, files = (out / HEAT_MAPS).resolve(), [p for p in found if p.is_file()]
    images = (p for p in files if p.suffix.lower() in EXTENSIONS)
    others = Counter(
        p.suffix.lower() for p in files if p.suffix.lower() not in EXTENSIONS and is_named_like_an_image(p)
    )
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        _log.warning("%s: images of kinds that are not read are ignored (%s); convert them.", source, kinds)
    whole = (p for p in images if not any(part.startswith(TEMPORARY) for part in p.relative_to(root).parts))
    paths = sorted(p for p in whole if written not in p.resolve().parents)
    if not paths:
        kinds = ", ".join(sorted(EXTENSIONS))
        raise DataError(f"{source} holds no images ({kinds}); name a folder, an image or a quoted pattern.")
    return root, paths


@dataclass(frozen=True)
class _Image:
    """An image as the detector sees it; black where ``error`` says why it is not read."""

    name: str
    pixels: Picture
    error: str = ""


@dataclass(frozen=True)
class _Scored:
    image: _Image
    score: float
    score_map: np.ndarray


def _predict(judge: Judge, root: Path, paths: list[Path], heat_maps: dict[str, Path]) -> pd.DataFrame:
    thresholds, side = judge.thresholds, judge.image_size

    def read(path: Path) -> _Image:
        name = _name(path, root)
        try:
            image = open_rgb(path)
        except DataError as error:
            return _Image(name, np.zeros((side, side, 3), np.uint8), str(error))
        return _Image(name, resize_to_square(image, side))

    def finish(scored: _Scored) -> dict[str, str | float | bool]:
        image = scored.image
        row = {"path": image.name, "image_score": scored.score, "threshold": thresholds.image}
        row["content"] = "" if image.error else watch.content(image.pixels)
        if image.error:
            return {**row, "image_score": np.nan, "anomalous": True, "error": image.error}
        picture = open_rgb(root / image.name)  # again, for many at once would fill the memory
        picture.thumbnail((LONGEST, LONGEST))
        score_map = cv2.resize(upsample(scored.score_map[None], side)[0], picture.size)
        overlay = heatmap.overlay(np.array(picture), score_map, thresholds.median_pixel_score, thresholds.pixel)
        path = heat_maps[image.name]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(overlay).save(path)
        return {**row, "anomalous": scored.score > thresholds.image, "error": ""}

    with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as writers:
        images = prefetch(readers, read, paths, _AHEAD)
        rows = prefetch(writers, finish, _score(images, judge), _AHEAD)
        console = Console(stderr=True)
        hidden = not (console.is_terminal and _log.isEnabledFor(logging.INFO))
        progress = track(rows, "scoring", len(paths), transient=True, console=console, disable=hidden)
        return pd.DataFrame(list(progress))


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def name_heat_maps(images: Sequence[str]) -> dict[str, str]:
    """Names of the heat maps of images: ``good/001.png`` of ``good/001.jpg``. Where two images differ in nothing but
    their extension, all keep it: ``good/001.jpg.png``."""
    short = {image: str(PurePosixPath(image).with_suffix(".png")) for image in images}
    return short if len({*short.values()}) == len(short) else {image: f"{image}.png" for image in images}


def _score(images: Iterator[_Image], judge: Judge) -> Iterator[_Scored]:
    while batch := list(islice(images, _BATCH)):
        maps, scores = judge.score(np.stack([image.pixels for image in batch]))
        yield from map(_Scored, batch, scores.tolist(), maps)
