"""Writing files so that a reader never sees half of one, and naming content by its hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clflow.errors import ClflowError

TEMPORARY = ".tmp-"
"""Prefix of everything half-written; whatever carries it may be deleted when nothing is running."""


def cache_folder() -> Path:
    """Folder for what all workspaces of a user share: CLFLOW_CACHE, else ``~/.cache/clflow``."""
    return Path(os.environ.get("CLFLOW_CACHE") or "~/.cache/clflow").expanduser()


def require_writable(folder: Path, option: str) -> Path:
    """The folder, or the nearest above it that exists, in which it can be made.

    Args:
        folder: to write to.
        option: that names another.

    Raises:
        ClflowError: it cannot be written, or is a file.
    """
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise ClflowError(f"{existing} is no folder; name another {option}.")
    if not os.access(existing, os.W_OK):
        raise ClflowError(f"{existing} cannot be written; correct its permissions, or name another {option}.")
    return existing


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write; it takes the name ``path`` on success and vanishes on an error."""
    temporary = _sibling(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill. It replaces an existing folder at ``path`` only once it is complete."""
    temporary = _sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            old = _sibling(path)
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Make a folder if there is none, and remove what killed processes left half-written in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _sibling(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
