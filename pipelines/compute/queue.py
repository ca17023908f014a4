"""The queue of cells that slots train, and the slots' reports.

A Ray actor that imports none of our modules, so that its process starts fast.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

KILLED = "the worker died without a word: killed, or out of memory"
"""Why a cell failed whose worker could not say it."""


@dataclass(frozen=True)
class Message:
    """A report on a cell.

    Attributes:
        cell: its name.
        kind: a line for its log, a point of its learning curves, that its detector is in the storage, or that it failed
            for good.
        content: the line, the point, the seconds its last attempt took, or the reason.
    """

    cell: str
    kind: Literal["line", "point", "finished", "failed"]
    content: Any = None


@dataclass
class _Held:
    """A cell that a slot trains: the attempts left after this one, when it began, and why it ended."""

    cell: str
    left: int
    begun: float
    reason: str = KILLED


class Dispatcher:
    """Hands out cells in their order. A slot that asks again while it holds a cell has lost its worker, and gets the
    cell again while it has attempts left.

    Args:
        names: of the cells.
        attempts: how often a cell is begun.
    """

    def __init__(self, names: list[str], attempts: int):
        self._waiting = deque(names)
        self._attempts = attempts
        self._held: dict[int, _Held] = {}
        self._messages: list[Message] = []

    def next(self, slot: int) -> str | None:
        """The cell that a slot is to train; None when nothing is left."""
        held = self._held.pop(slot, None)
        if held and held.left == 0:
            self._messages.append(Message(held.cell, "failed", held.reason))
            held = None
        if held:
            cell, left = held.cell, held.left
        elif self._waiting:
            cell, left = self._waiting.popleft(), self._attempts
        else:
            return None
        self._held[slot] = _Held(cell, left - 1, time.monotonic())
        return cell

    def line(self, cell: str, text: str) -> None:
        """Take a line for a cell's log."""
        self._messages.append(Message(cell, "line", text))

    def point(self, cell: str, figures: dict[str, float]) -> None:
        """Take a point of a cell's learning curves."""
        self._messages.append(Message(cell, "point", figures))

    def finished(self, slot: int) -> None:
        """Note that a slot's cell is trained, and its detector in the storage."""
        held = self._held.pop(slot)
        self._messages.append(Message(held.cell, "finished", time.monotonic() - held.begun))

    def failed(self, slot: int, reason: str, final: bool) -> None:
        """Note that an attempt ended in an error; ``final`` if another would, too.

        Of several workers' reports, the first counts.
        """
        held = self._held.get(slot)
        if held and held.reason == KILLED:
            held.reason, held.left = reason, 0 if final else held.left

    def messages(self) -> list[Message]:
        """All reports since the last call, in order."""
        messages, self._messages = self._messages, []
        return messages
