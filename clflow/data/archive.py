"""Extraction of the wanted categories from an untrusted archive."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from clflow.data.download import Progress
from clflow.errors import DataError

_CHUNK = 1 << 20
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # a zip compressed by a method that Python does not know
)


def extract(
    archive: Path, root: str, categories: Sequence[str], folder: Path, progress: Progress | None = None
) -> None:
    """Unpack the files below the category folders to ``folder/<category>/...``; hidden files are left out.

    Categories lie in ``root`` ("": at the top), which may itself lie in one more folder. Takes zip and tar
    (plain, gzip, xz); ``folder`` is created, and removed again on any error.

    Raises:
        DataError: the archive is damaged or lacks a category, or a member anywhere in it is a link, a device
            or would land outside the folder.
    """
    folder.mkdir(parents=True)
    unpack = _extract_zip if zipfile.is_zipfile(archive) else _extract_tar
    try:
        try:
            unpack(archive, _Destination(archive, root, categories, folder), progress)
        except _DAMAGE as error:
            raise DataError(f"{archive} is damaged or no zip or tar ({error}); get it again.") from None
        for category in categories:
            if not (folder / category).is_dir():
                raise DataError(f"{archive} holds no folder {'/'.join(filter(None, (root, category)))} with files.")
    except BaseException:
        shutil.rmtree(folder)
        raise


def safe_parts(name: str) -> tuple[str, ...]:
    """The folders and the file name of a member.

    Raises:
        ValueError: the name is absolute, climbs out by "..", or would mean something else on another system.
    """
    if name.startswith("/") or re.search(r"[\\\0]|^[A-Za-z]:", name) or ".." in name.split("/"):
        raise ValueError(name)
    return tuple(part for part in name.split("/") if part not in ("", "."))


class _Destination:
    """Where members of an archive go."""

    def __init__(self, archive: Path, root: str, categories: Sequence[str], folder: Path) -> None:
        self._archive, self._folder, self._categories = archive, folder, frozenset(categories)
        self._root = safe_parts(root)
        self._prefixes: dict[str, tuple[str, ...]] = {}

    def place(self, name: str, is_folder: bool) -> Path | None:
        """The path for a member, None if it is no file or not wanted."""
        try:
            parts = safe_parts(name)
        except ValueError:
            raise self.refusal(name, "has a name that could land outside the folder") from None
        for depth in (len(self._root), len(self._root) + 1):
            prefix, inner = parts[:depth], parts[depth:]
            if prefix[depth - len(self._root) :] == self._root and inner and inner[0] in self._categories:
                break
        else:
            return None
        if is_folder or len(inner) == 1 or any(part.startswith(".") for part in inner):
            return None
        if self._prefixes.setdefault(inner[0], prefix) != prefix:
            raise self.refusal(name, f"is of a second category {inner[0]!r}")
        path = self._folder.joinpath(*inner)
        if path.exists():
            raise self.refusal(name, "occurs twice")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def refusal(self, name: str, why: str) -> DataError:
        return DataError(f"{self._archive} is refused, because its member {name!r} {why}.")


def _extract_tar(archive: Path, destination: _Destination, progress: Progress | None) -> None:
    size = archive.stat().st_size
    with archive.open("rb") as raw, _decompressed(raw) as stream:
        # Read as a stream: large archives are decompressed once, not once to list and once to extract.
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if not (member.isreg() or member.isdir()):
                    raise destination.refusal(member.name, "is a link or a device")
                path = destination.place(member.name, member.isdir())
                source = tar.extractfile(member) if path is not None else None
                if path is not None and source is not None:
                    with path.open("xb") as file:
                        shutil.copyfileobj(source, file, _CHUNK)
                if progress is not None:
                    progress(f"extracting {archive.name}", raw.tell(), size)
        # Up to the end, where compressed files have their checksum and plain ones a block of zeros.
        while stream.read(_CHUNK):
            pass
        if stream is raw:
            raw.seek(-512, 2)
            if any(raw.read()):
                raise tarfile.ReadError("its end is missing")


@contextmanager
def _decompressed(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    magic = raw.read(6)
    raw.seek(0)
    if magic == b"\xfd7zXZ\0":
        with lzma.open(raw) as stream:
            yield stream
    elif magic[:2] == b"\x1f\x8b":
        with gzip.open(raw) as stream:
            yield stream  # pyright: ignore[reportReturnType]
    else:
        yield raw


def _extract_zip(archive: Path, destination: _Destination, progress: Progress | None) -> None:
    done = 0
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        size = sum(member.compress_size for member in members)
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise destination.refusal(member.filename, "is a link or a device")
            if member.flag_bits & 1:
                raise destination.refusal(member.filename, "is encrypted")
            path = destination.place(member.filename, member.is_dir())
            if path is not None:
                with file.open(member) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
            done += member.compress_size
            if progress is not None:
                progress(f"extracting {archive.name}", done, size)
