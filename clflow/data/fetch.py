"""Bringing a dataset to its folder, and doing nothing where that has already been done.

A record outside the folder remembers for each category what it came from, how its files looked when they were
placed, and its rows of the sample table. Where record, source and files agree, nothing is touched.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from filelock import FileLock

from clflow.config.schema import Dataset
from clflow.data.archive import extract
from clflow.data.catalogue import DATASETS, Archive, Entry, check_categories, find
from clflow.data.checks import check_images
from clflow.data.download import Progress, download
from clflow.data.layout import scan
from clflow.data.manifest import FILE, read_manifest, write_manifest
from clflow.errors import DataError, ParameterError
from clflow.files import TEMPORARY, file_sha256, fingerprint, read_json, write_json
from clflow.provenance import Code, code_of

_RECORD_VERSION = 1
_NAMED = 3  # links of many


def fetch(
    name: str, dataset: Dataset, folder: Path, downloads: Path, record: Path, progress: Progress | None = None
) -> pd.DataFrame:
    """Bring the categories of a dataset to ``folder/<category>``; return the sample table beside them.

    A category is replaced if its source changed or its files were damaged, and kept if its source vanished.
    Categories no longer asked for are removed. Nothing in ``folder`` changes before all new is checked.

    Args:
        dataset: categories, and the local archive or folder they come from (None: rendered or downloaded).
        downloads: where finished and partial downloads are kept.
        record: the JSON file that remembers what was placed; outside ``folder``, which holds content only.

    Raises:
        ParameterError: the dataset or a category is unknown, or the source does not suit the dataset.
        DataError: the source is missing, damaged, refused or not laid out as expected, or the disk is full.
    """
    entry = find(name, dataset.layout)
    check_categories(name, entry, dataset.categories)
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(record.with_suffix(".lock")):
            return _fetch(name, entry, dataset, folder, downloads, record, progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"The disk is full; {name} needs more space in {folder} or {downloads}.") from error
        raise DataError(f"Fetching {name} failed ({error}); check that the path can be read or written.") from error


def read_notes(record: Path) -> dict[str, list[str]]:
    """What was odd about each category's images when they were placed, see `clflow.data.checks.check_images`."""
    return {category: placed.get("notes", []) for category, placed in read_json(record)["categories"].items()}


def _fetch(
    name: str, entry: Entry, dataset: Dataset, folder: Path, downloads: Path, record: Path, progress: Progress | None
) -> pd.DataFrame:
    state = _read_state(record, folder)
    before = fingerprint(state)
    placed: dict[str, Any] = state["categories"]
    source = _source(name, entry, dataset.source, state, downloads, progress)
    if dataset.source is not None and Path(dataset.source).resolve().is_relative_to(folder.resolve()):
        raise ParameterError(f"data.{name}.source lies in {folder}, which fetch itself fills; move it elsewhere.")

    origins = source.origins(dataset.categories)
    missing = [
        category
        for category in dataset.categories
        if category not in placed
        or placed[category]["origin"] != origins[category]
        or not _is_intact(folder, category, placed[category])
    ]
    if missing:
        _replace(entry, dataset, missing, origins, source, folder, record, state)
    for category in sorted(placed.keys() - set(dataset.categories)):
        (folder / FILE).unlink(missing_ok=True)
        shutil.rmtree(folder / category, ignore_errors=True)
        del placed[category]
    if fingerprint(state) != before:
        write_json(record, state)
    rows = [row for category in dataset.categories for row in placed[category]["rows"]]
    return write_manifest(folder, pd.DataFrame(rows))


def _replace(
    entry: Entry,
    dataset: Dataset,
    categories: Sequence[str],
    origins: Mapping[str, str],
    source: _Source,
    folder: Path,
    record: Path,
    state: dict[str, Any],
) -> None:
    """Bring categories to a staging folder, check all of them there, and only then put them in place."""
    placed = state["categories"]
    for category in categories:
        if category not in placed and (folder / category).exists():
            raise DataError(f"{folder / category} was not put there by fetch; move it away or name it as source.")
    staging = folder.with_name(TEMPORARY + folder.name)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        source.place(categories, staging)
        rows = _scan(entry, categories, staging, source.where)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).unlink(missing_ok=True)
        for category in categories:
            placed[category] = {
                "source": dataset.source,
                "origin": origins[category],
                "files": _listing(staging, category),
                "rows": rows[category].to_dict("records"),
                "notes": check_images(staging, category, rows[category]),
            }
            # Before the files are there: a kill in between leaves a damaged category, not a stranger's.
            write_json(record, state)
            shutil.rmtree(folder / category, ignore_errors=True)
            (staging / category).replace(folder / category)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _read_state(record: Path, folder: Path) -> dict[str, Any]:
    try:
        state = read_json(record)
        if state["version"] == _RECORD_VERSION:
            return state
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # Lost or of another version: all is fetched again.
    # What the manifest names was placed by fetch, here or on the machine that this folder was copied from.
    owned = read_manifest(folder)["category"].unique() if (folder / FILE).exists() else []
    lost = {"source": None, "origin": "", "files": {}, "rows": []}
    return {
        "version": _RECORD_VERSION,
        "archive": None,
        "categories": {str(name): dict(lost) for name in owned},
    }


def _is_intact(folder: Path, category: str, placed: dict[str, Any]) -> bool:
    """Whether a category's files are those that were placed, perhaps touched, copied or linked anew since."""
    found, expected = _listing(folder, category), placed["files"]
    if found == expected:
        return True
    if {path: size for path, (size, _) in found.items()} != {path: size for path, (size, _) in expected.items()}:
        return False
    hashes = {row["path"]: row["sha256"] for row in placed["rows"]}
    hashes |= {row["mask"]: row["mask_sha256"] for row in placed["rows"] if row["mask"]}
    touched = [path for path in found if found[path] != expected[path] and path in hashes]
    if any(file_sha256(folder / path) != hashes[path] for path in touched):
        return False
    placed["files"] = found
    return True


def _scan(entry: Entry, categories: Sequence[str], staging: Path, where: str) -> dict[str, pd.DataFrame]:
    """The sample table of each category; what is wrong with any of them is told at once."""
    rows, wrong = {}, []
    for category in categories:
        try:
            rows[category] = scan(staging, category, entry.normal, entry.complete)
        except DataError as error:
            wrong.append(str(error).replace(str(staging), where))  # the staging folder is gone when this is read
    if wrong:
        raise DataError(" ".join(wrong))
    return rows


class _Source(Protocol):
    where: str

    def origins(self, categories: Sequence[str]) -> dict[str, str]:
        """By category, what changes whenever `place` would place something else."""
        ...

    def place(self, categories: Sequence[str], folder: Path) -> None:
        """Put the files of the categories to ``folder/<category>``; the folder does not exist yet."""
        ...


@dataclass
class _Rendered:
    """Images that code draws, anew whenever the code is another."""

    where: str
    render: Callable[[str, Path], None]
    code: Code

    def origins(self, categories: Sequence[str]) -> dict[str, str]:
        return {category: fingerprint([category, self.code.files, self.code.libraries]) for category in categories}

    def place(self, categories: Sequence[str], folder: Path) -> None:
        for category in categories:
            self.render(category, folder / category)


@dataclass
class _Packed:
    """An archive, downloaded first if it has mirrors."""

    where: str
    name: str
    path: Path
    sha256: str
    urls: Sequence[str]
    root: str
    progress: Progress | None

    def origins(self, categories: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(categories, self.sha256)

    def place(self, categories: Sequence[str], folder: Path) -> None:
        if self.urls:
            try:
                download(self.urls, self.sha256, self.path, self.progress)
            except DataError as error:
                advice = f"set data.{self.name}.source to a local archive or folder"
                raise DataError(f"{str(error).rstrip('.')}; try again later or {advice}.") from None
        extract(self.path, self.root, categories, folder, self.progress)


@dataclass
class _Directory:
    """A folder of category folders. A category that has vanished counts as unchanged."""

    where: str
    name: str
    root: Path
    known: Mapping[str, str]
    progress: Progress | None

    def origins(self, categories: Sequence[str]) -> dict[str, str]:
        require_no_links(self.root / category for category in categories)
        return {category: self._origin(category) for category in categories}

    def _origin(self, category: str) -> str:
        if not (self.root / category).is_dir():
            return self.known.get(category, "")
        return fingerprint(_listing(self.root, category))

    def place(self, categories: Sequence[str], folder: Path) -> None:
        for category in categories:
            files = _listing(self.root, category)
            if not files:
                missing = self.root / category if self.root.exists() else self.root
                raise DataError(f"data.{self.name}.source leads to {missing}, which does not exist or is empty.")
            done, total = 0, sum(size for size, _ in files.values())
            for path, (size, _) in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.root / path, folder / path)
                done += size
                if self.progress is not None:
                    self.progress(f"copying {category}", done, total)


def _source(
    name: str, entry: Entry, source: str | None, state: dict[str, Any], downloads: Path, progress: Progress | None
) -> _Source:
    archive = entry.archive
    if entry.render is not None:
        if source is not None:
            raise ParameterError(f"Dataset {name} is rendered; set data.{name}.source to null.")
        return _Rendered(f"dataset {entry.name}", entry.render, code_of(DATASETS.module(entry.name)))
    if source is None:
        if archive is None:
            raise ParameterError(f"data.{name}.source must name the folder that holds your categories.")
        path = downloads / archive.file
        return _Packed(str(path), name, path, archive.sha256, archive.urls, archive.root, progress)
    path = Path(source)
    if path.is_file():
        if archive is None:
            raise ParameterError(f"data.{name}.source is the file {path}; it must be a folder.")
        state["archive"] = _vouched(entry.name, archive, path, state["archive"])
        return _Packed(str(path), name, path, state["archive"]["sha256"], (), archive.root, progress)
    known = {
        category: placed["origin"] for category, placed in state["categories"].items() if placed["source"] == source
    }
    root = source_root(entry, path)
    return _Directory(str(root), name, root, known, progress)


def source_root(entry: Entry, folder: Path) -> Path:
    """The folder that holds the categories in a local folder, which may be that of an unpacked archive."""
    root = folder / entry.archive.root if entry.archive else folder
    return root if root.is_dir() else folder


def _vouched(name: str, archive: Archive, path: Path, known: dict[str, Any] | None) -> dict[str, Any]:
    """Identity and SHA-256 of a local archive; ``known`` saves reading a file that has not changed since.

    Raises:
        DataError: neither the catalogue nor a file ``<archive>.sha256`` vouches for the content.
    """
    identity = {"path": str(path), "size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
    if known is not None and identity.items() <= known.items():
        return known
    found = file_sha256(path)
    sidecar = path.with_name(path.name + ".sha256")
    if found != archive.sha256:
        if not sidecar.exists():
            raise DataError(
                f"{path} has sha256 {found}, but the published archive of {name} has {archive.sha256}; get "
                f"it again, or, if you repacked it, state its sha256sum in {sidecar.name} beside it."
            )
        if found not in _stated(sidecar, path.name):
            raise DataError(f"{path} has sha256 {found}, which {sidecar} does not state; get it again or correct that.")
    return identity | {"sha256": found}


def _stated(sidecar: Path, name: str) -> set[str]:
    """The hashes that a file in the format of sha256sum states for a file name."""
    text = sidecar.read_text(encoding="utf-8", errors="replace")
    lines = re.findall(r"^([0-9a-fA-F]{64})(?:[ \t]+\*?(\S.*?))?\s*$", text, flags=re.MULTILINE)
    return {digest.lower() for digest, file in lines if not file or Path(file).name == name}


def require_no_links(folders: Iterable[Path]) -> None:
    """Make sure that neither folders nor anything in them is a link, which may lead out of it.

    Raises:
        DataError: there are links; it tells how many, and the first of them.
    """
    paths = (path for folder in folders if folder.is_dir() for path in (folder, *_files(folder)))
    links = sorted(os.fspath(path) for path in paths if path.is_symlink())
    if links:
        more = f" and {len(links) - _NAMED} more" if len(links) > _NAMED else ""
        one = len(links) == 1
        raise DataError(
            f"{len(links)} link{'' if one else 's'}: {', '.join(links[:_NAMED])}{more}; replace "
            f"{'it by what it points' if one else 'them by what they point'} to."
        )


def _listing(folder: Path, category: str) -> dict[str, list[int]]:
    """[size, modification time in ns] of each file of a category, by its path relative to ``folder``."""
    found = {}
    if (folder / category).is_dir():
        for file in _files(folder / category):
            status = file.stat()
            found[Path(file.path).relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns]
    return dict(sorted(found.items()))


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All files and links below a folder, without hidden ones."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield entry
