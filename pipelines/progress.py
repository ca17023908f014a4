"""Progress of many cells: one live table in a terminal, plain lines elsewhere, and a log per cell always."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipelines.cells import Cell


class Board:
    """What is known of the cells of one stage. Use as a context manager.

    Args:
        cells: all that will be run.
        logs: folder that gets one log per cell.
    """

    def __init__(self, cells: Sequence[Cell], logs: Path):
        self.cells = {cell.name: cell for cell in cells}
        self.state = {cell.name: "waiting" for cell in cells}
        self.done = 0
        self.logs = logs
        self.start = time.perf_counter()
        self.console = Console()
        self.live = Live(console=self.console, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live.is_started:
            self.live.stop()

    def log(self, cell: Cell) -> Path:
        """The cell's log."""
        return self.logs / f"{cell.dataset}-{cell.name}.log"

    def progress(self, name: str, point: dict[str, float]) -> None:
        """A cell has reported a point of its learning curves."""
        figures = " ".join(f"{key} {value:.4g}" for key, value in point.items())
        self._write(self.cells[name], figures)
        self.state[name] = f"step {point['step']:g}, validation AUROC {point['validation_auroc']:.3f}"

    def finished(self, cell: Cell) -> None:
        """A cell is complete."""
        self.done += 1
        self.state[cell.name] = f"done, {self.state[cell.name]}"
        elapsed = time.perf_counter() - self.start
        remaining = elapsed / self.done * (len(self.cells) - self.done)
        self._say(f"[{self.done}/{len(self.cells)}] {cell.dataset} {cell.name} done, about {remaining:.0f} s to go")

    def failed(self, cell: Cell, error: Exception) -> Path:
        """A cell has failed for good; returns the log that says why."""
        self.done += 1
        self.state[cell.name] = "FAILED"
        self._write(cell, "".join(traceback.format_exception(error)))
        cause = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        self._say(f"[{self.done}/{len(self.cells)}] {cell.dataset} {cell.name} FAILED: {cause}")
        return self.log(cell)

    def _say(self, line: str) -> None:
        if not self.live.is_started:
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _write(self, cell: Cell, text: str) -> None:
        with self.log(cell).open("a", encoding="utf-8") as file:
            file.write(text.rstrip() + "\n")

    def _table(self) -> Table:
        table = Table(title=f"{self.done} of {len(self.cells)} cells, {time.perf_counter() - self.start:.0f} s")
        for heading in ("dataset", "category", "method", "seed", "state"):
            table.add_column(heading)
        for name, cell in self.cells.items():
            table.add_row(cell.dataset, cell.category, cell.method, str(cell.seed), self.state[name])
        return table
