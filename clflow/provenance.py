"""Which code made a result."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

from clflow.files import file_sha256, fingerprint

PACKAGE = Path(__file__).parent


def source_hash(*parts: str) -> str:
    """SHA-256 (hex) of modules and sub-packages of clflow, by their path in the package (``model``, ``fit.py``)."""
    files = [PACKAGE / part for part in parts if part.endswith(".py")]
    files += [file for part in parts if not part.endswith(".py") for file in (PACKAGE / part).rglob("*.py")]
    return fingerprint({file.relative_to(PACKAGE).as_posix(): file_sha256(file) for file in files})


def commit() -> str:
    """The commit of the checkout that the code runs from, ``-dirty`` if it was changed since; else the version."""
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}-dirty" if _git("status", "--porcelain") else head
    except (OSError, subprocess.CalledProcessError):
        return f"clflow-{version('clflow')}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
