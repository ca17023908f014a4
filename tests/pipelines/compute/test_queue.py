"""Cells go to slots in order, and each ends once, whatever happens to the workers."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.compute.queue import KILLED, Dispatcher, Message

End = Literal["finished", "killed", "error", "final error"]
ENDS: tuple[End, ...] = ("finished", "killed", "error", "final error")


def end(dispatcher: Dispatcher, slot: int, how: End) -> None:
    if how == "finished":
        dispatcher.finished(slot)
    elif how != "killed":
        dispatcher.failed(slot, how, final=how == "final error")


@given(
    cells=st.integers(0, 5),
    attempts=st.integers(1, 3),
    ends=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ENDS)), max_size=40),
)
def test_every_cell_ends_once_and_is_begun_no_more_often_than_allowed(
    cells: int, attempts: int, ends: list[tuple[int, End]]
):
    names = [f"cell{i}" for i in range(cells)]
    dispatcher = Dispatcher(names, attempts)
    held: dict[int, str] = {}
    begun: list[str] = []

    def ask(slot: int) -> None:
        name = dispatcher.next(slot)
        if name is not None:
            assert name not in held.values()
            held[slot] = name
            begun.append(name)

    for slot in range(3):
        ask(slot)
    # What happens first is drawn; after that, all goes well.
    for slot, how in [*ends, *((slot, "finished") for _ in range(cells) for slot in range(3))]:
        if slot in held:
            end(dispatcher, slot, how)
            del held[slot]
            ask(slot)
    assert not held
    assert list(dict.fromkeys(begun)) == names
    assert all(begun.count(name) <= attempts for name in names)
    messages = dispatcher.messages()
    assert sorted(message.cell for message in messages) == names
    assert not dispatcher.messages()


def test_reasons_are_told():
    dispatcher = Dispatcher(["a", "b", "c"], attempts=2)
    assert dispatcher.next(0) == "a"
    dispatcher.point("a", {"step": 1})
    dispatcher.failed(0, "the loss is not finite", final=True)
    dispatcher.failed(0, "another worker noticed it, too", final=False)
    assert dispatcher.next(0) == "b"
    dispatcher.failed(0, "out of luck", final=False)
    assert dispatcher.next(0) == "b"
    assert dispatcher.next(0) == "c"
    dispatcher.failed(0, "out of luck", final=False)
    assert dispatcher.next(0) == "c"
    dispatcher.finished(0)
    assert dispatcher.messages() == [
        Message("a", "point", {"step": 1}),
        Message("a", "failed", "the loss is not finite"),
        Message("b", "failed", KILLED),
        Message("c", "finished", pytest.approx(0, abs=60)),
    ]
