"""Commands that are told to end by a signal, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from tests.pipelines.command import environment

SAID = "interrupted; what is finished is kept, run the same command again to continue."
BOUND_S = 15.0


def start(*command: str, folder: Path, log: Path) -> subprocess.Popen[str]:
    """A command at the head of a process group, as a shell in a terminal starts it; it speaks to ``log``."""
    with log.open("w") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )


def end(process: subprocess.Popen[str], number: signal.Signals, group: bool = False) -> None:
    """Send a signal, to the process alone or to its group, as Ctrl-C in a terminal does.

    Raises:
        AssertionError: its exit code does not tell the signal, or something that it had started runs on.
    """
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    begin = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    assert process.wait(BOUND_S) == 128 + number
    _, alive = psutil.wait_procs(family, timeout=BOUND_S - (time.monotonic() - begin))
    assert not alive
