"""Files that commands write to a user's folder, distinguished from the user's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clflow.errors import ClflowError
from clflow.files import TEMPORARY, file_sha256, read_json, write_json

MARKER = ".clflow-output.json"
"""Lists, for each command, the files that it wrote and the hashes of what it wrote there."""

_STAGING = f"{TEMPORARY}output"


class Outputs:
    """The files that commands wrote to a folder.

    A command replaces only what the same command wrote, and nobody has changed since.

    Args:
        folder: need not exist.

    Raises:
        ClflowError: its marker cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._marker = folder / MARKER
        try:
            # A file has two hashes while it is replaced: of the old content and the new.
            self._hashes: dict[str, dict[str, list[str]]] = read_json(self._marker) if self._marker.exists() else {}
        except ValueError:
            raise ClflowError(
                f"{self._marker} is damaged, so what was written here cannot be told; use another folder."
            ) from None

    def require(self, command: str, names: Iterable[str]) -> None:
        """Make sure that a command may write these files.

        Raises:
            ClflowError: one of them would replace what the command did not write.
        """
        for name in names:
            if (problem := self._problem(command, name)) is not None:
                raise ClflowError(f"{self.folder / name} {problem}; move it away, or name another folder.")

    def changed(self, command: str) -> list[str]:
        """Names of the files that the command wrote and that hold something else now."""
        return [name for name in self._hashes.get(command, {}) if self._problem(command, name) is not None]

    @contextmanager
    def replace(self, command: str) -> Iterator[Path]:
        """Yield a folder for all that the command writes. On success its files take their places here, and those that
        the command wrote earlier, and not now, are removed.

        Raises:
            ClflowError: one of them would replace what the command did not write.
        """
        is_new = not self.folder.exists()
        staging = self.folder / _STAGING
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        staging.mkdir(parents=True)
        try:
            yield staging
            self._place(staging, command)
        finally:
            shutil.rmtree(staging)
            if is_new and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _place(self, staging: Path, command: str) -> None:
        files = sorted(path for path in staging.rglob("*") if path.is_file())
        new = {path.relative_to(staging).as_posix(): file_sha256(path) for path in files}
        self.require(command, new)
        old = self._hashes.get(command, {})
        obsolete = [name for name in old.keys() - new.keys() if self._problem(command, name) is None]
        self._record(command, old | {name: [*old.get(name, ()), sha256] for name, sha256 in new.items()})
        for name in new:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(target)
        for name in obsolete:
            (self.folder / name).unlink(missing_ok=True)
        self._record(command, {name: [sha256] for name, sha256 in new.items()})

    def _problem(self, command: str, name: str) -> str | None:
        """Why a command may not replace a file, if it may not."""
        path = self.folder / name
        if any(parent.exists() and not parent.is_dir() for parent in path.parents):
            return "would lie in what is a file"
        if not path.exists() and not path.is_symlink():
            return None
        sha256 = file_sha256(path) if path.is_file() else None
        writers = [writer for writer, hashes in self._hashes.items() if name in hashes]
        if sha256 in self._hashes.get(command, {}).get(name, ()):
            return None
        for writer in writers:
            if sha256 in self._hashes[writer][name]:
                return f"was written by `{writer}`"
        return f"was changed after `{writers[0]}` wrote it" if writers else f"was not written by `{command}`"

    def _record(self, command: str, hashes: dict[str, list[str]]) -> None:
        self._hashes[command] = hashes
        write_json(self._marker, self._hashes)
