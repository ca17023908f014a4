"""From folders to rows: the layouts of MVTec AD and BTAD.

Both are ``train/<normal>``, ``test/<normal>``, ``test/<defect>`` and ``ground_truth/<defect>``. MVTec AD
calls the normal folder "good" and a mask ``<stem>_mask``; BTAD calls them "ok" and ``<stem>``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clflow.data.images import EXTENSIONS, open_rgb
from clflow.data.manifest import COLUMNS
from clflow.errors import DataError
from clflow.files import file_sha256

NORMAL_FOLDERS = ("good", "ok")


def scan(folder: Path, category: str, normal: str | None, complete: bool) -> pd.DataFrame:
    """Rows of the sample table for one category of the dataset in ``folder``; every file is decoded once.

    Args:
        normal: name of the folder of normal images; None finds it.
        complete: whether there must be normal and defective test images, and a mask for each of the latter. A new
            part has none of them yet.

    Raises:
        DataError: the category lacks a folder, images or masks; a mask pairs with no image or with an image
            that has one; a file does not decode; or a mask is not of the size of its image.
    """
    return sample_table(folder, category, _samples(folder / category, normal, complete))


@dataclass(frozen=True)
class Sample:
    """An image file in its place: split "train" or "test", and kind of defect, "good" for none."""

    split: str
    defect: str
    image: Path
    mask: Path | None = None


def sample_table(folder: Path, category: str, samples: Iterable[Sample]) -> pd.DataFrame:
    """Rows of the sample table for image files below ``folder``; every file is decoded once.

    Raises:
        DataError: files do not decode, or masks are not of the size of their images; all of them are named.
    """

    def row(sample: Sample) -> dict[str, str | int] | DataError:
        try:
            return _row(folder, category, sample)
        except DataError as error:
            return error

    # Decoding and hashing release the interpreter lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(row, list(samples)))
    damaged = [str(each) for each in rows if isinstance(each, DataError)]
    if damaged:
        raise DataError(" ".join(damaged))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def samples_to_test(test: Path, truth: Path, normal: str) -> Iterator[Sample]:
    """Test images in folders for each kind of defect, with their masks where there are any.

    Args:
        test: folder of these folders.
        truth: the same for masks; need not exist.
        normal: name of the folder of normal images.

    Raises:
        DataError: a mask pairs with no image, or with one that has another.
    """
    yield from (Sample("test", "good", image) for image in images_in(test / normal))
    for defect in subfolders(test):
        if defect != normal:
            masks = _pair(test / defect, truth / defect)
            yield from (Sample("test", defect, image, masks.get(image)) for image in images_in(test / defect))


def _samples(root: Path, normal: str | None, complete: bool) -> Iterator[Sample]:
    if not root.is_dir():
        raise DataError(f"{root} does not exist; check the categories and the source of this dataset.")
    if not any(path.suffix.lower() in EXTENSIONS for path in root.rglob("*")):
        raise DataError(
            f"{root} holds no images; it should hold train/good and, where there are test images, test/good and "
            "test/<defect>."
        )
    normal = normal or _normal_folder(root)
    train, test, truth = root / "train", root / "test", root / "ground_truth"
    for split, parent in (("train", train), ("test", test)):
        if (split == "train" or complete) and not images_in(parent / normal):
            raise DataError(f"{parent / normal} holds no images; normal images to {split} on belong there.")
    for name in subfolders(train):
        if name != normal:
            raise DataError(f"{train / name} is no normal folder; training uses {train / normal} only.")
    defects = [name for name in subfolders(test) if name != normal]
    # Where there may be no test images, those in the wrong place would not be missed.
    for name in subfolders(root):
        if not test.is_dir() and root / name not in (train, truth):
            raise DataError(f"{root / name} is none of train, test and ground_truth; rename it or move it away.")
    for image in images_in(test):
        raise DataError(f"{image} lies in no folder; put it into {test / normal} or into one for its kind of defect.")
    if complete and not any(images_in(test / defect) for defect in defects):
        raise DataError(f"{test} holds no defective images; they belong in one folder for each kind of defect.")
    for name in set(defects) & set(NORMAL_FOLDERS):
        raise DataError(f"{test / name} is named like normal images, but those of {root} are in {normal}.")
    for name in subfolders(truth):
        if name not in defects:
            raise DataError(f"{truth / name} pairs with no folder of defective images in {test}.")

    yield from (Sample("train", "good", image) for image in images_in(train / normal))
    for sample in samples_to_test(test, truth, normal):
        if complete and sample.defect != "good" and sample.mask is None:
            raise DataError(f"{sample.image} has no mask in {truth / sample.defect}; every defective image needs one.")
        yield sample


def _normal_folder(root: Path) -> str:
    found = [name for name in NORMAL_FOLDERS if (root / "train" / name).is_dir()]
    if len(found) != 1:
        which = "both train/good and train/ok" if found else "neither train/good nor train/ok"
        raise DataError(f"{root} has {which}; normal training images belong in exactly one of them.")
    return found[0]


def _pair(images: Path, masks: Path) -> dict[Path, Path]:
    """Mask of each image that has one, by name: the stem of the image, or the stem and "_mask"."""
    by_stem: dict[str, Path] = {}
    pairs: dict[Path, Path] = {}
    for image in images_in(images):
        other = by_stem.setdefault(image.stem, image)
        if other != image and masks.is_dir():
            raise DataError(f"{image} and {other.name} differ only in extension, so no mask can be paired.")
    for mask in images_in(masks):
        image = by_stem.get(mask.stem) or by_stem.get(mask.stem.removesuffix("_mask"))
        if image is None:
            raise DataError(f"{mask} pairs with no image in {images}; a mask bears the name of its image.")
        if image in pairs:
            raise DataError(f"{mask} and {pairs[image].name} are both masks of {image}; keep one.")
        pairs[image] = mask
    return pairs


def _row(folder: Path, category: str, sample: Sample) -> dict[str, str | int]:
    size = open_rgb(sample.image).size
    if sample.mask is not None and (mask_size := open_rgb(sample.mask).size) != size:
        raise DataError(f"{sample.mask} is {_by(mask_size)} pixels, but its image is {_by(size)}; they must match.")
    return {
        "category": category,
        "split": sample.split,
        "label": int(sample.defect != "good"),
        "defect": sample.defect,
        "path": sample.image.relative_to(folder).as_posix(),
        "mask": "" if sample.mask is None else sample.mask.relative_to(folder).as_posix(),
        "sha256": file_sha256(sample.image),
        "mask_sha256": "" if sample.mask is None else file_sha256(sample.mask),
    }


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def images_in(folder: Path) -> list[Path]:
    """Images that lie in a folder itself, sorted, but for hidden ones; none if there is no folder."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in EXTENSIONS and path.is_file())


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, but for hidden ones; none if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
