"""Signals: a command that is told to end unwinds, keeps what is finished, and leaves no process behind."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

LIMIT_S = 10.0
"""Seconds that a command may take to unwind; what is left of it then is killed."""

_GRACE_S = 2.0  # for processes that end by themselves once their parent has unwound
_POLL_S = 1.0  # between two looks whether DVC is alive
_OUTER_S = 2.0  # for a command that waits for one of ours, which may take the limit
_SENTENCE = "interrupted; what is finished is kept, run the same command again to continue."


class Interrupted(SystemExit):
    """SIGINT, SIGTERM or SIGHUP was received; ``code`` is 128 and the signal's number, as shells have it."""

    def __init__(self, number: int):
        super().__init__(128 + number)


@contextmanager
def interruptible(limit_s: float = LIMIT_S) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP raise `Interrupted` inside, and then kill what is left of the started processes.

    If the inside has not unwound after ``limit_s`` seconds, the process ends nevertheless, and all it started with it.
    """
    interruption = _Interruption(limit_s)
    before = {number: signal.signal(number, interruption.interrupt) for number in _signals()}
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    # A library that takes a signal for itself, as Ray does with SIGTERM while it starts, cannot hide it from this.
    wakeup = signal.set_wakeup_fd(write_end)
    threading.Thread(target=interruption.watch, args=(read_end,), daemon=True).start()
    try:
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            os.close(write_end)
            interruption.known.wait()
    except BaseException as end:
        succeeded = isinstance(end, SystemExit) and not end.code  # a server was told to stop, say
        if interruption.number is None or succeeded:
            raise
        interruption.finish()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Undo what happens inside to the handler of SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler):
            signal.signal(signal.SIGTERM, handler)


class _ShieldedProcess(SpawnProcess):
    """Ctrl-C in a terminal reaches it, too. It inherits that SIGINT waits: what ends it is up to its parent."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _ShieldedContext(SpawnContext):
    Process = _ShieldedProcess  # a pool starts some of its processes late, when a task finds the others busy


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that import everything anew; an error inside ends them at once.

    Forking a process that runs threads (OpenCV, Ray) can deadlock.
    """
    pool = ProcessPoolExecutor(workers, _ShieldedContext())
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def run_command(command: list[str], folder: Path, environment: dict[str, str], output: int) -> int:
    """Run a command that runs commands of ours, as DVC does, with its standard output to a descriptor; returns its exit
    code.

    Whatever signal comes here, it and its children get SIGINT: by SIGTERM, DVC would die and leave its stage running
    and its locks behind, but after SIGINT it waits for its stage. Ray's processes block that one.
    """
    with interruptible(LIMIT_S + _OUTER_S):
        # In a session of its own, so that Ctrl-C in a terminal reaches it from here alone, once.
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, start_new_session=True)
        try:
            return process.wait()
        except Interrupted:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()
            raise


class _Interruption:
    """What is known of the signal that was received, if any."""

    def __init__(self, limit_s: float):
        self.limit_s = limit_s
        self.number: int | None = None
        self.known = threading.Event()  # whether there was one: set when it comes, or at the end
        self.raised = False
        self.started: set[psutil.Process] = set()

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The handler: the first signal raises; another must not break the unwinding."""
        if not self.raised:
            self.raised = True
            raise Interrupted(number)

    def watch(self, read_end: int) -> None:
        """Wait for a signal and bound what follows; in a thread, which works while the main thread is in C code."""
        numbers, parent = _signals(), os.getppid()
        while True:
            if select.select([read_end], [], [], _POLL_S)[0]:
                received = os.read(read_end, 1)
                if not received or received[0] in numbers:
                    break
            elif os.getppid() != parent and "DVC_STAGE" in os.environ:  # DVC dies by SIGTERM and tells nobody
                os.kill(os.getpid(), signal.SIGTERM)
        if received:
            self.number = received[0]
        self.known.set()
        if self.number is None:
            os.close(read_end)
            return
        self.started |= _descendants()  # those whose parent dies are nobody's children later
        time.sleep(self.limit_s)
        self._kill()
        self._say()
        os._exit(128 + self.number)

    def finish(self) -> NoReturn:
        """Kill what is left, say why this ends, and end with the signal's code."""
        assert self.number is not None
        self.started |= _descendants()
        deadline = time.monotonic() + _GRACE_S
        while any(map(_runs, self.started)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._kill()
        self._say()
        raise SystemExit(128 + self.number) from None

    def _kill(self) -> None:
        for process in self.started | _descendants():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def _say(self) -> None:
        print(_SENTENCE, file=sys.stderr, flush=True)


def _signals() -> list[signal.Signals]:
    """SIGHUP comes when the terminal is closed, and is ignored under nohup."""
    return [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]


def _runs(process: psutil.Process) -> bool:
    """Unlike psutil's ``wait``, this leaves the exit code to the process that started it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))
