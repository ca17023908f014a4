"""The command line as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.workspace.paths import Workspace
from tests import tiny

BIN = Path(sys.executable).parent


def environment(**variables: str) -> dict[str, str]:
    """Environment variables of a command: those that are, with this environment's commands first, and these."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}


def run(
    *command: str, cwd: Path | None = None, stderr: int = subprocess.STDOUT, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment, with these environment variables beside those that are; what it says is in
    ``stdout``, unless ``stderr`` is to be apart."""
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=cwd,
        env=environment(**(variables or {})),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
    )


def refusal(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `clflow` says before it stops with exit code 2: one sentence, of which this is the rest after "error: "."""
    monkeypatch.setattr(sys, "argv", ["clflow", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert sentence == said.splitlines()[-1]
    return sentence.removeprefix("error: ")


def benchmark(source: Path, folder: Path, **changes: Any) -> Path:
    """Run the tiny benchmark in a workspace below ``folder``; returns the workspace."""
    params = tiny.write_params(folder / "tiny.yaml", tiny.params_tree(source, **changes))
    workspace = folder / "workspace"
    command = ("benchmark", "--params", str(params), "--workspace", str(workspace))
    result = run("clflow", *command, stderr=subprocess.PIPE)
    assert result.returncode == 0, result.stderr
    assert result.stdout == Workspace(workspace).leaderboard_page.read_text() + "\n"
    return workspace


def verbs(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb, with the words that call it."""
    for name, verb in getattr(command, "commands", {}).items():
        yield from verbs(verb, *words, name)
    if not hasattr(command, "commands"):
        yield words, command
