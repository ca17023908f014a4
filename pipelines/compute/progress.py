"""Progress of many jobs: one live table in a terminal, plain lines elsewhere, and always a log per job to follow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from clflow.training.validation import VALIDATION

_log = logging.getLogger(__name__)


class Board:
    """Progress of the jobs of one stage. Use as a context manager.

    Args:
        headings: what the columns of a job are called.
        total: how many jobs are to be done.
        slots: how many run at once.
        log: the path of a job's log, by its name.
        done: how many of the jobs were done before; they may be shown.
    """

    def __init__(self, headings: tuple[str, ...], total: int, slots: int, log: Callable[[str], Path], done: int = 0):
        self.headings, self.total, self.slots, self.log = headings, total, slots, log
        self.columns: dict[str, tuple[str, ...]] = {}
        self.state: dict[str, str] = {}
        self.done = done
        self.start = time.perf_counter()
        self.ends: list[float] = []
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self.console.is_terminal and _log.isEnabledFor(logging.INFO):
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live.is_started:
            self.live.stop()

    def add(self, name: str, columns: tuple[str, ...], state: str = "waiting") -> None:
        """Add a job."""
        self.columns[name], self.state[name] = columns, state

    def began(self, name: str) -> None:
        """Mark a job as begun."""
        self.state[name] = "running"
        self._say(logging.INFO, f"{self._count(name)} began")

    def note(self, name: str, line: str) -> None:
        """Write a line to a job's log."""
        _log.debug("%s: %s", name, line)
        self._write(name, line)

    def progress(self, name: str, point: dict[str, float]) -> None:
        """Show a point of a job's learning curves."""
        figures = " ".join(f"{key} {value:.4g}" for key, value in point.items())
        self.note(name, figures)
        self.state[name] = f"step {point['step']:g}, validation {point[VALIDATION]:.3f}"

    def finished(self, name: str, how: str = "done") -> None:
        """Mark a job as complete."""
        self.done += 1
        self.state[name] = f"{how}, {self.state[name]}"
        self._say(logging.INFO, f"{self._count(name)} {self.state[name]}{self._to_go()}")

    def failed(self, name: str, reason: str) -> Path:
        """Mark a job as failed; returns the log that says why."""
        self.done += 1
        self.state[name] = "FAILED"
        self._write(name, reason)
        self._say(logging.WARNING, f"{self._count(name)} FAILED: {reason.strip().splitlines()[-1]} ({self.log(name)})")
        return self.log(name)

    def _count(self, name: str) -> str:
        return f"[{self.done}/{self.total}] {name}"

    def _to_go(self) -> str:
        """An estimate by the pace since the first job has ended; what was before that is mostly start, and the first
        jobs of all slots end with it."""
        self.ends.append(time.perf_counter())
        since = len(self.ends) - self.slots
        if since < 1:
            return ""
        return f", about {(self.ends[-1] - self.ends[0]) / since * (self.total - self.done):.0f} s to go"

    def _say(self, level: int, line: str) -> None:
        if not self.live.is_started:
            _log.log(level, "%s", line)

    def _write(self, name: str, text: str) -> None:
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("a", encoding="utf-8") as file:
            file.write(text.rstrip() + "\n")

    def _table(self) -> Table:
        table = Table(title=f"{self.done} of {self.total} done, {time.perf_counter() - self.start:.0f} s")
        for heading in (*self.headings, "state"):
            table.add_column(heading)
        for name, columns in self.columns.items():
            table.add_row(*columns, self.state[name])
        return table
