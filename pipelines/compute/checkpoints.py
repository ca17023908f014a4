"""Checkpoints of cells that are being trained: a folder per cell in the storage, whichever slot trains it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from clflow.errors import DataError
from clflow.files import file_sha256, fingerprint

FINISHED = "finished"
"""The last checkpoint of a cell: its detector and curves, and what else its training has to tell."""

_COMPLETE = "complete"  # a hash of what the others hold; written last: an object store cannot rename


class Checkpoints:
    """Named folders of a cell; each is there whole, or not at all.

    Args:
        storage: an absolute path, or a bucket's URI.
        cell: its name, which holds its key: checkpoints of other parameters are never found.
    """

    def __init__(self, storage: str, cell: str):
        self.filesystem, root = FileSystem.from_uri(storage)
        self.folder = f"{root}/{cell}"

    def names(self) -> list[str]:
        """Of all that are complete, sorted."""
        found = self.filesystem.get_file_info(FileSelector(self.folder, allow_not_found=True, recursive=True))
        complete = [Path(info.path) for info in found if info.base_name == _COMPLETE]
        return sorted(path.parent.name for path in complete)

    def write(self, name: str, save: Callable[[Path], None]) -> None:
        """Keep what ``save`` writes into a folder."""
        with tempfile.TemporaryDirectory() as made:
            save(Path(made))
            self.remove(name)
            target = f"{self.folder}/{name}"
            self.filesystem.create_dir(target)
            copy_files(made, target, LocalFileSystem(), self.filesystem)
            with self.filesystem.open_output_stream(f"{target}/{_COMPLETE}") as marker:
                marker.write(_content(Path(made)))

    @contextmanager
    def read(self, name: str) -> Iterator[Path]:
        """A local copy, for the time of the context.

        Raises:
            DataError: it does not hold what was written.
        """
        with tempfile.TemporaryDirectory() as copy:
            copy_files(f"{self.folder}/{name}", copy, self.filesystem, LocalFileSystem())
            marker = Path(copy) / _COMPLETE
            written = marker.read_bytes()
            marker.unlink()
            if _content(Path(copy)) != written:
                raise DataError(f"the checkpoint {self.folder}/{name} is damaged; remove that folder and train again.")
            yield Path(copy)

    def remove(self, name: str) -> None:
        """Remove one, if it is there; a half-written one, too."""
        folder = f"{self.folder}/{name}"
        for path, remove in (
            (f"{folder}/{_COMPLETE}", self.filesystem.delete_file),  # first, so that half of it is not taken for whole
            (folder, self.filesystem.delete_dir),
        ):
            if self.filesystem.get_file_info(path).type != FileType.NotFound:
                remove(path)

    def clear(self) -> None:
        """Remove all."""
        for name in self.names():
            self.remove(name)
        if self.filesystem.get_file_info(self.folder).type != FileType.NotFound:
            self.filesystem.delete_dir(self.folder)


def _content(folder: Path) -> bytes:
    """What tells whether a folder's files are those that were written."""
    return fingerprint({path.name: file_sha256(path) for path in folder.iterdir()}).encode()
