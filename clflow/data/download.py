"""Downloading one file of known content: from several mirrors, resumable, always verified."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import requests
from filelock import FileLock

from clflow.errors import DataError
from clflow.files import file_sha256

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how many bytes of it are done, and how many there are (None: unknown)."""

PAUSES_S = (0.5, 2.0, 5.0)
"""Waits before a mirror is asked again; used up by attempts in a row that brought nothing new."""

_TIMEOUT_S = (10.0, 60.0)
_CHUNK = 1 << 16  # A broken connection costs what it had sent of one.
_log = logging.getLogger(__name__)


def download(urls: Sequence[str], sha256: str, path: Path, progress: Progress | None = None) -> None:
    """Bring the file with this SHA-256 to ``path``, through ``<path>.part``, which a later call resumes.

    A file that already lies at ``path`` is verified like any other. Parallel calls for one path wait in turn.

    Raises:
        DataError: no mirror delivered the file; the sentence lists what each one did.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with FileLock(path.with_name(path.name + ".lock")):
        if path.exists():
            if file_sha256(path) == sha256:
                return
            _log.warning("%s does not have the published sha256; it is downloaded again.", path)
            path.unlink()
        failures = []
        for url in urls:
            failure = _from_mirror(url, sha256, part, progress)
            if failure is None:
                part.replace(path)
                return
            _log.warning("%s: %s", url, failure)
            failures.append(f"{url}: {failure}")
    raise DataError(f"{path.name} could not be downloaded ({'; '.join(failures)}).")


def _from_mirror(url: str, sha256: str, part: Path, progress: Progress | None) -> str | None:
    """Fill ``part`` from one mirror; returns why that failed, or None."""
    while True:
        resumed = part.exists()
        try:
            _complete(url, part, progress)
        except requests.RequestException as error:
            return " ".join(str(error).split())
        found = file_sha256(part)
        if found == sha256:
            return None
        part.unlink()
        if not resumed:
            return f"its sha256 is {found} instead of {sha256}, so it was deleted"
        # What an earlier run or another mirror left behind may be to blame: once more, from the start.


def _complete(url: str, part: Path, progress: Progress | None) -> None:
    """Ask until the server has sent everything, each time only for what is missing."""
    best, idle, version = _size(part), 0, ""
    while True:
        offset = _size(part)
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if version:
                headers["If-Range"] = version
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
                if offset and response.status_code == requests.codes.requested_range_not_satisfiable:
                    return  # Nothing is missing; the hash tells whether it is the right file.
                response.raise_for_status()
                etag = response.headers.get("ETag", "")
                version = "" if etag.startswith("W/") else etag
                _store(response, offset, part, progress)
            return
        except requests.RequestException as error:
            if _is_final(error):
                raise
            idle = 0 if _size(part) > best else idle + 1
            best = max(best, _size(part))
            if idle > len(PAUSES_S):
                raise
        time.sleep(PAUSES_S[max(idle - 1, 0)])


def _store(response: requests.Response, offset: int, part: Path, progress: Progress | None) -> None:
    if response.status_code != requests.codes.partial_content:
        offset = 0  # The server ignores ranges or has another version, and sends the whole file.
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        raise requests.RequestException("the server sent another range than it was asked for")
    length = response.headers.get("Content-Length")
    total = None if length is None else offset + int(length)
    with part.open("ab" if offset else "wb") as file:
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
            offset += len(chunk)
            if progress is not None:
                progress(f"downloading {part.stem}", offset, total)


def _is_final(error: requests.RequestException) -> bool:
    """Whether asking again is of no use: the server refuses, and not for lack of time or capacity."""
    status = None if error.response is None else error.response.status_code
    return status is not None and 400 <= status < 500 and status not in (408, 429)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
