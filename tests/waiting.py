"""Waiting for what another process brings about."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[Any], log: Path | None = None) -> None:
    """Until the condition holds; only the limit of a whole test says how long that may take on a slow machine.

    Raises:
        AssertionError: the process, whose output goes to ``log`` or to a pipe, ended first.
    """
    while not condition():
        assert process.poll() is None, log.read_text() if log else process.communicate()[0]
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Whether a server answers there, and with success."""
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False
