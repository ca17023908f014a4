"""The command line explains itself: version, short help, panels by task, examples, and the name that was meant."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command
from typer.testing import CliRunner

import clflow
from clflow.config.params import effective
from pipelines import console
from pipelines.cli import app
from tests import tiny
from tests.pipelines.command import refusal, run, verbs

VERBS = dict(verbs(get_command(app)))


def said(*arguments: str) -> str:
    called = CliRunner().invoke(app, [*arguments])
    assert called.exit_code == 0, called.output
    return called.output


def test_version():
    assert said("--version") == f"clflow {clflow.__version__}\n"


@pytest.mark.parametrize("words", [(), ("config",), ("bench",), *VERBS], ids=" ".join)
def test_short_help(words: tuple[str, ...]):
    shown = said(*words, "-h")
    assert shown == said(*words, "--help")
    assert words not in VERBS or f"Example: clflow {' '.join(words)}" in shown


@pytest.mark.parametrize(("typed", "completed"), [("clflow tr", "train"), ("clflow bench sc", "scaling")])
def test_shell_completes_verbs(typed: str, completed: str):
    last = str(len(typed.split()) - 1)
    done = run("clflow", variables={"_CLFLOW_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": last})
    assert (done.returncode, done.stdout.split()) == (0, [completed])


def test_standard_output_has_the_result_and_nothing_else(finished: Path, tmp_path: Path):
    workspace = Path(shutil.copytree(finished, tmp_path / "workspace", symlinks=True))
    chosen = ("--category", "disc", "--method", "clflow", "--dry-run")
    for command, result in (
        (("plan",), "folder: 4 cells, 0 to train, 0 to score\n"),
        (("train", "--dataset", "folder", *chosen), "folder: 1 cells, 0 to train, 0 to score\n"),
        (("synthesize", "--dataset", "folder"), ""),
        (("gc",), ""),
        (("config", "show"), effective(workspace / "params.yaml").tree),
    ):
        for quiet in ((), ("--quiet",)):
            called = CliRunner().invoke(app, [*command, "--params", str(workspace / "params.yaml"), *quiet])
            assert called.exit_code == 0, called.output
            assert (YAML(typ="safe").load(called.stdout) if isinstance(result, dict) else called.stdout) == result
            assert not (quiet and called.stderr)


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


def test_progress_is_on_standard_error_as_much_as_is_wanted(tmp_path: Path):
    """For every place that the options may have, and for what a command starts."""
    usual = CliRunner().invoke(app, ["init", str(tmp_path / "0")])
    assert not usual.stdout and usual.stderr.startswith(f"{tmp_path}/0/params.yaml: edit it, then clflow benchmark ")
    for number, (before, behind) in enumerate((("--quiet", ""), ("", "-q"), ("--verbose", "--quiet")), start=1):
        words = [word for word in (before, "init", str(tmp_path / f"{number}"), behind) if word]
        called = CliRunner().invoke(app, words)
        assert (called.exit_code, called.output, os.environ[console.LEVEL]) == (0, "", "warning")
    detailed = CliRunner().invoke(app, ["init", str(tmp_path / "4"), "--verbose"]).stderr
    assert re.match(r"[\d-]+ [\d:,]+ INFO pipelines\.init: .*/4/params\.yaml: edit it", detailed)


def test_former_verbs_name_what_they_are_now(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    cell = ("--dataset", "folder", "--category", "disc")
    for former, now in (
        (("bench", *cell), "`clflow bench methods`"),
        (("bench", "--growth", *cell), "`clflow bench scaling`"),
        (("bench-accelerator", *cell), "`clflow bench accelerator`"),
    ):
        assert now in refusal(*former, monkeypatch=monkeypatch, capsys=capsys)


def test_level_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv(console.LEVEL, "loud")
    said = refusal("config", "show", monkeypatch=monkeypatch, capsys=capsys)
    assert said == "CLFLOW_LOG_LEVEL is 'loud'; set it to debug, info, warning, or unset it."


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"benchmark__methods": ["clfow"]}, "there is no method 'clfow'; did you mean 'clflow'?"),
        ({"promotion__method": "fastflo"}, "there is no method 'fastflo'; did you mean 'fastflow'?"),
        (
            {"data__folder": {"source": None, "layout": "mvtec_ad", "categories": ["botle"]}},
            "dataset folder has no category 'botle'; did you mean 'bottle'?",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["fetch", "plan", "train", "benchmark"])
def test_a_misspelt_name_is_told_before_any_work(
    verb: str,
    changes: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    params = tiny.write_params(tmp_path / "tiny.yaml", tiny.params_tree(tmp_path / "nowhere", **changes))
    more = ("--workspace", str(tmp_path / "run")) if verb == "benchmark" else ("--dataset", "folder")
    command = verb, "--params", str(params), *more
    assert refusal(*command, monkeypatch=monkeypatch, capsys=capsys) == sentence
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_misspelt_option_value_is_answered_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    params = str(tiny.write_params(tmp_path / "tiny.yaml", tiny.params_tree(tmp_path)))
    for command, sentence in (
        (("train", "--dataset", "foldr", "--params", params), f"not described in {params}; did you mean 'folder'?"),
        (("tune", "--dataset", "folder", "--category", "dics", "--params", params), "'dics' is none of folder; did"),
        (("train", "--dataset", "folder", "--method", "fastflo", "--params", params), "did you mean 'fastflow'?"),
        (
            ("evaluate", "--dataset", "folder", "--seed", "3", "--params", params),
            "--seed 3 is none of benchmark.seeds; it has 0.",
        ),
        (("fit", str(tmp_path), "--out", str(tmp_path / "out"), "--method", "clfow"), "did you mean 'clflow'?"),
    ):
        assert sentence in refusal(*command, monkeypatch=monkeypatch, capsys=capsys)
