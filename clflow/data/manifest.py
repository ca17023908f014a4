"""The sample table of a dataset: one row per image, and the few questions that are asked of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from clflow.errors import DataError
from clflow.files import fingerprint, write_atomically

FILE = "manifest.csv"

COLUMNS = ("category", "split", "label", "defect", "path", "mask", "sha256", "mask_sha256")
"""``path`` and ``mask`` are POSIX and relative to the dataset's folder; ``mask`` is "" if there is none."""


def write_manifest(folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Write the rows, sorted by category, split and path, to ``folder`` atomically; return them so.

    A file that already says the same is left untouched.
    """
    manifest = rows.loc[:, list(COLUMNS)].sort_values(by=["category", "split", "path"], ignore_index=True)
    text = manifest.to_csv(index=False, lineterminator="\n").encode()
    path = folder / FILE
    if not path.exists() or path.read_bytes() != text:
        with write_atomically(path) as temporary:
            temporary.write_bytes(text)
    return manifest


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read the sample table of the dataset in ``folder``.

    Raises:
        DataError: there is none, or it lacks a column.
    """
    path = folder / FILE
    try:
        # Everything is text but the label: category "01" is no number, defect "NA" is no missing value.
        manifest = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; fetch the dataset first.") from None
    except ValueError as error:
        raise DataError(f"{path} is no sample table ({error}); delete it and fetch again.") from None
    missing = [column for column in COLUMNS if column not in manifest]
    if missing:
        raise DataError(f"{path} lacks the column {missing[0]!r}; delete it and fetch again.")
    return manifest.astype({"label": int})


def category_rows(manifest: pd.DataFrame, category: str, split: str) -> pd.DataFrame:
    """The rows of one category and split ("train" or "test"), in manifest order; there may be no test images.

    Raises:
        DataError: the category is not in the manifest.
    """
    of_category = manifest.loc[manifest["category"] == category]
    if of_category.empty:
        raise DataError(f"The manifest has no images of category {category!r}; fetch it first.")
    return of_category.loc[of_category["split"] == split].reset_index(drop=True)


def data_hash(rows: pd.DataFrame) -> str:
    """SHA-256 (hex) of what the rows contain: paths, labels, masks and the hashes of both files.

    It depends neither on the order of the rows nor on which columns are added.
    """
    columns = ["path", "label", "mask", "sha256", "mask_sha256"]
    return fingerprint(rows.loc[:, columns].sort_values(by="path").to_numpy().tolist())


def split_normals(rows: pd.DataFrame, holdout: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split normal training images into (train, held-out), each sorted by path.

    About the share ``holdout`` is held out, at least one image on each side. Rows are ranked by a hash of
    their content, so the split depends neither on a seed nor on the order of the rows.

    Raises:
        DataError: there are fewer than two rows.
    """
    if len(rows) < 2:
        raise DataError(f"A category needs at least 2 normal training images, but there is {len(rows)}.")
    held_out = min(max(round(len(rows) * holdout), 1), len(rows) - 1)
    rank = rows["sha256"].map(lambda digest: hashlib.sha256(digest.encode()).hexdigest())
    ranked = rows.assign(_rank=rank).sort_values(by=["_rank", "path"]).drop(columns="_rank")
    train, validation = ranked.iloc[held_out:], ranked.iloc[:held_out]
    return train.sort_values(by="path", ignore_index=True), validation.sort_values(by="path", ignore_index=True)
