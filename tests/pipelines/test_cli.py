"""The command line explains itself: version, short help, panels by task, an example of each verb."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import clflow
from pipelines.cli import app


def verbs(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb, with the words that call it."""
    for name, verb in getattr(command, "commands", {}).items():
        yield from verbs(verb, *words, name)
    if not hasattr(command, "commands"):
        yield words, command


VERBS = dict(verbs(get_command(app)))


def said(*arguments: str) -> str:
    called = CliRunner().invoke(app, [*arguments])
    assert called.exit_code == 0, called.output
    return called.output


def test_version():
    assert said("--version") == f"clflow {clflow.__version__}\n"


@pytest.mark.parametrize("words", [(), ("config",), *VERBS], ids=" ".join)
def test_short_help(words: tuple[str, ...]):
    assert said(*words, "-h") == said(*words, "--help")


def test_help_is_grouped_by_task():
    panels = [line.strip("╭─╮ ") for line in said("-h").splitlines() if line.startswith("╭")]
    assert panels[1:] == [
        "Your own images",
        "Stages of a benchmark, as dvc.yaml calls them",
        "Benchmarks",
        "Model registry",
        "Costs",
    ]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_has_an_example_that_can_be_called(words: tuple[str, ...]):
    verb = VERBS[words]
    example = shlex.split(verb.epilog.removeprefix("Example: "))
    assert tuple(example[: 1 + len(words)]) == ("clflow", *words)
    verb.make_context(words[-1], example[1 + len(words) :]).close()  # raises on what is missing or unknown
