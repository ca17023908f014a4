"""A person's own images of one part, in whatever of the usual layouts they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clflow.data.layout import NORMAL_FOLDERS, Sample, images_in, sample_table, samples_to_test, scan, subfolders
from clflow.errors import DataError


@dataclass(frozen=True)
class OwnImages:
    """Images that were found.

    Attributes:
        folder: that the paths in the table are relative to; it holds the folder of the part.
        part: name of the folder of the part.
        layout: how they lie, in words.
        rows: the sample table.
        searched: name of the folder in ``folder`` that holds all images of the part; None if they were listed.
    """

    folder: Path
    part: str
    layout: str
    rows: pd.DataFrame
    searched: str | None

    @property
    def normal(self) -> pd.DataFrame:
        """Rows of the normal images to train on."""
        return self.rows.loc[self.rows["split"] == "train"].reset_index(drop=True)

    @property
    def test(self) -> pd.DataFrame:
        """Rows of the test images."""
        return self.rows.loc[self.rows["split"] == "test"].reset_index(drop=True)

    def __str__(self) -> str:
        test = self.test
        defective = test.loc[test["label"] == 1]
        found = f"{self.layout}: {len(self.normal)} normal images to train on"
        if not len(test):
            return found + "; no test images"
        found += f"; test images: {len(test) - len(defective)} normal, {len(defective)} defective, "
        return found + f"{(defective['mask'] != '').sum()} of them with masks"


def find_own_images(images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> OwnImages:
    """Find the normal images of a part, and its test images where there are any.

    A folder holds either ``train/good`` (or ``train/ok``) in the layout of MVTec AD, or ``good`` (or ``ok``), or the
    normal images themselves.

    Args:
        images: the folder, or the paths of normal images.

    Raises:
        DataError: there are no images, they lie in no such layout, or one does not decode.
    """
    if not isinstance(images, str | os.PathLike):
        paths = sorted({Path(path).resolve() for path in images})
        if not paths:
            raise DataError("the list of normal images is empty; name at least two.")
        root = Path(os.path.commonpath([path.parent for path in paths]))
        return _normal_images(root, paths, "list of normal images", None)
    root = Path(images).resolve()
    if not root.is_dir():
        raise DataError(f"{root} is no folder; name the folder of the normal images, or list their paths.")
    if (root / "train").is_dir():
        rows = scan(root.parent, root.name, None, complete=False)
        return OwnImages(root.parent, root.name, "layout of MVTec AD", rows, root.name)
    named = next((name for name in NORMAL_FOLDERS if images_in(root / name)), None)
    if named is not None:
        return _normal_images(root, images_in(root / named), f"folder {named} of normal images", root.name)
    if images_in(root):
        return _normal_images(root, images_in(root), "folder of normal images", root.name)
    parts = [name for name in subfolders(root) if (root / name / "train").is_dir() or images_in(root / name)]
    near = f"it holds {', '.join(parts)}; name one of them" if parts else "put the normal images there"
    raise DataError(f"{root} holds no images, and no train/good: {near}.")


def find_test_images(folder: Path) -> OwnImages:
    """Find test images in ``test/good`` (or ``ok``) and ``test/<defect>``, masks in ``ground_truth/<defect>``.

    Raises:
        DataError: there are none, or one does not decode.
    """
    root = folder.resolve()
    normal = next((name for name in NORMAL_FOLDERS if (root / "test" / name).is_dir()), NORMAL_FOLDERS[0])
    samples = list(samples_to_test(root / "test", root / "ground_truth", normal))
    if not samples:
        raise DataError(f"{root / 'test'} holds no images; put them into test/good and a folder for each defect.")
    rows = sample_table(root.parent, root.name, samples)
    return OwnImages(root.parent, root.name, "layout of MVTec AD", rows, root.name)


def _normal_images(root: Path, paths: list[Path], layout: str, searched: str | None) -> OwnImages:
    samples = [Sample("train", "good", path) for path in paths]
    return OwnImages(root.parent, root.name, layout, sample_table(root.parent, root.name, samples), searched)
