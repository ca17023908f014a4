"""What a stage says of its jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clflow.training.validation import VALIDATION
from pipelines.compute.progress import Board


def log_of(folder: Path) -> Callable[[str], Path]:
    return lambda name: folder / "logs" / f"{name}.log"


def test_jobs_that_were_done_before_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with Board(("category",), 5, 1, log_of(tmp_path), done=3) as board:
        board.add("tile", ("tile",))
        board.began("tile")
        board.note("tile", "worker 1 of 1")
        board.progress("tile", {"step": 20, VALIDATION: 0.5})
        board.finished("tile")
    began, ended = capsys.readouterr().err.splitlines()
    assert (began, ended) == ("[3/5] tile began", "[4/5] tile done, step 20, validation 0.500")
    assert log_of(tmp_path)("tile").read_text(encoding="utf-8").startswith("worker 1 of 1\nstep 20 ")


def test_time_to_go_is_said_once_there_is_a_pace(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with Board(("category",), 4, 2, log_of(tmp_path)) as board:
        for name in ("bottle", "screw", "cable", "tile"):
            board.add(name, (name,))
            board.progress(name, {"step": 20, VALIDATION: 0.875})
            board.finished(name)
    *at_once, third, fourth = capsys.readouterr().err.splitlines()
    assert at_once == [f"[{i}/4] {name} done, step 20, validation 0.875" for i, name in ((1, "bottle"), (2, "screw"))]
    assert third.startswith("[3/4] cable done, step 20, validation 0.875, about ")
    assert fourth.endswith(", about 0 s to go")


def test_failure_is_logged_and_its_last_line_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with Board(("category",), 2, 1, log_of(tmp_path)) as board:
        board.add("bottle", ("bottle",))
        log = board.failed("bottle", "Traceback\nValueError: no such level\n")
        board.add("screw", ("screw",))
        board.progress("screw", {"step": 20, VALIDATION: 0.5})
        board.finished("screw")
    assert capsys.readouterr().err.splitlines() == [
        f"warning: [1/2] bottle FAILED: ValueError: no such level ({log})",
        "[2/2] screw done, step 20, validation 0.500",
    ]
    assert log.read_text(encoding="utf-8") == "Traceback\nValueError: no such level\n"
