"""What is odd about images that can all be read: nothing stops a training, but its numbers may mislead."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clflow.calibration import images_needed
from clflow.data.images import FORMATS, is_named_like_an_image, open_rgb

_TINY = 64  # pixels of the shorter side; the least that protocol.image_size may be
_HUGE = 50e6  # pixels; Pillow refuses images of 179 million
_USED_BITS = 12  # of cameras that store their values in 16 bits


def check_images(folder: Path, category: str | None, rows: pd.DataFrame) -> list[str]:
    """Sentences about a category's images, each with their number and the first of them.

    They tell of duplicates, tiny and huge images, 16-bit ones that are nearly black, masks that are missing or empty,
    and image files that the layout has no use for.

    Args:
        folder: that the paths in the table are relative to.
        category: a folder in it, all of whose images should be in the table; None if others may lie beside them.
        rows: the sample table of the category; all its files decode.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        seen = list(pool.map(partial(_look, folder), rows["path"]))
        marked = rows.loc[rows["mask"] != ""]
        is_empty = list(pool.map(lambda mask: not np.asarray(open_rgb(folder / mask)).any(), marked["mask"]))
    found = [*_duplicates(rows), *_pixels(seen), *_missing_masks(rows)]
    if any(is_empty):
        advice = "every pixel of their images counts as free of defects; draw the defects"
        found.append(_line("masks that are all black", marked["mask"][is_empty], advice))
    ignored = _ignored(folder / category, folder, {*rows["path"], *rows["mask"]}) if category is not None else []
    if ignored:
        counted = sorted(Counter(Path(path).suffix.lower() for path in ignored).items())
        kinds = ", ".join(f"{count} {kind}" for kind, count in counted)
        advice = "only images of a known format that lie in the folders of the layout themselves are read"
        found.append(_line(f"image files that are ignored ({kinds})", ignored, advice))
    return found


def check_count(normal: int, rate: float) -> str | None:
    """A sentence where so few normal training images cannot keep a false alarm rate, ``protocol.false_alarm_rate``."""
    needed = images_needed(rate)
    if normal >= needed:
        return None
    return (
        f"{normal} normal training images can keep a false alarm rate of {1 / (normal + 1):.2g} at best, not "
        f"{rate:g} (protocol.false_alarm_rate), for which {needed} are needed"
    )


@dataclass(frozen=True)
class _Look:
    """An image's size, and its largest value where its pixels are grey with 16 bits."""

    path: str
    width: int
    height: int
    largest: int | None


def _look(folder: Path, path: str) -> _Look:
    with Image.open(folder / path, formats=FORMATS) as image:
        largest = int(np.asarray(image).max()) if image.mode.startswith("I;16") else None
        return _Look(path, *image.size, largest)


def _pixels(seen: list[_Look]) -> Iterator[str]:
    tiny = [image.path for image in seen if min(image.width, image.height) < _TINY]
    if tiny:
        yield _line(f"images less than {_TINY} pixels wide or high", tiny, "small defects do not show in them")
    huge = [image.path for image in seen if image.width * image.height > _HUGE]
    if huge:
        yield _line(f"images of more than {_HUGE / 1e6:.0f} megapixels", huge, "store them smaller to save time")
    deep = {image.path: image.largest for image in seen if image.largest is not None}
    bits = max(deep.values(), default=0).bit_length()
    if deep and bits <= _USED_BITS:
        advice = f"they are read as nearly black; multiply their values by {2 ** (16 - bits)}"
        yield _line(f"images that use {bits} of their 16 bits", deep, advice)


def _duplicates(rows: pd.DataFrame) -> Iterator[str]:
    train, test = (rows.loc[rows["split"] == split] for split in ("train", "test"))
    leaked = test.loc[test["sha256"].isin(train["sha256"])]
    if len(leaked):
        advice = "the figures flatter; remove them from one side"
        yield _line("test images that are training images, too", leaked["path"], advice)
    for name, split in (("training", train), ("test", test)):
        repeated = split.loc[split.duplicated("sha256")]
        if len(repeated):
            yield _line(f"copies of other {name} images", repeated["path"], "each counts as one more; remove them")


def _missing_masks(rows: pd.DataFrame) -> Iterator[str]:
    defective = rows.loc[rows["label"] == 1]
    missing = defective.loc[defective["mask"] == ""]
    if 0 < len(missing) < len(defective):  # without any mask, there are no figures of pixels that could mislead
        yield _line("defective images without a mask", missing["path"], "they count for figures of images only")


def _ignored(searched: Path, folder: Path, used: set[str]) -> list[str]:
    """Files, by their paths relative to ``folder``, that a person would call images, and that are not used."""
    found = (
        path.relative_to(folder) for path in searched.rglob("*") if path.is_file() and is_named_like_an_image(path)
    )
    visible = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted({path.as_posix() for path in visible} - used)


def _line(what: str, paths: Iterable[str], advice: str) -> str:
    """What they are, how many, the first of them, and what follows from it."""
    named = list(paths)
    return f"{what}: {len(named)}, first {named[0]}; {advice}"
