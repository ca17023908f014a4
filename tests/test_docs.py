"""What the README and the docs say holds as it is written: commands, parameters, Python, links."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlflow.cli
import pytest
from click import Context
from markdown_it import MarkdownIt
from ruamel.yaml import YAML
from typer.main import get_command

from clflow.config.params import load
from pipelines.cli import app
from tests import tiny
from tests.pipelines.command import BIN

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
GENERATED = re.compile(r"^(\[\[ \w+ \]\]$|::: )", re.MULTILINE)
"""Marks where the site puts generated text, see docs/hooks."""

INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
"""Where the site puts a file of the project."""

SHELL = ("cd", "cp", "curl", "export", "tail", ".")
"""Programs of which no option is checked."""


@dataclass(frozen=True)
class Snippet:
    """A block of code on a page.

    Attributes:
        page: where it stands.
        line: of its first line, from 1.
        language: bash, python, toml or yaml, the last for parts of params.yaml; text and mermaid are not checked.
        content: the code.
        runs: it follows a line ``<!-- run -->`` and is executed.
    """

    page: Path
    line: int
    language: str
    content: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def tokens(page: Path) -> list[Any]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def snippets(*languages: str) -> list[Snippet]:
    """All snippets in some languages, or in any."""
    found = []
    for page in PAGES:
        before = ""
        for token in tokens(page):
            if token.type == "fence" and (not languages or token.info in languages):
                run = before.strip() == "<!-- run -->"
                content = INCLUDED.sub(lambda file: (ROOT / file[1]).read_text(encoding="utf-8"), token.content)
                found.append(Snippet(page, token.map[0] + 2, token.info, content, run))
            before = token.content
    return found


def inline(kind: str) -> Iterator[tuple[Path, Any]]:
    """Page and token of every link, image or piece of code in the text."""
    for page in PAGES:
        for token in tokens(page):
            yield from ((page, child) for child in token.children or () if child.type == kind)


def commands() -> list[str]:
    """Lines of the shell blocks."""
    lines = [line for snippet in snippets("bash") for line in snippet.content.splitlines()]
    parts = [part for line in lines for part in shlex.join(shlex.split(line, comments=True)).split(" '&&' ")]
    return sorted({part for part in parts if part})


def quoted() -> list[str]:
    """Commands that are quoted in the text; they may lack what is required."""
    found = {" ".join(token.content.split()) for _, token in inline("code_inline")}
    return sorted(text for text in found if re.match(r"(clflow|dvc|make) ", text))


@pytest.mark.parametrize("command", commands())
def test_command_exists(command: str):
    check(shlex.split(command), is_complete=True)


@pytest.mark.parametrize("command", quoted())
def test_quoted_command_exists(command: str):
    check(shlex.split(command), is_complete=False)


def check(words: list[str], is_complete: bool):
    """Check a command against the program that it calls."""
    program, *arguments = words
    if program in ("clflow", "mlflow"):
        check_verb(get_command(app) if program == "clflow" else mlflow.cli.cli, arguments, is_complete)
    elif program == "make":
        given = [word for word in arguments if "<" not in word]
        called = subprocess.run(["make", "--dry-run", *given], cwd=ROOT, capture_output=True, text=True, check=False)
        assert called.returncode == 0, called.stderr
    elif program == "python":
        assert arguments[0] == "-m" and find_spec(arguments[1]) is not None
        assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))
    elif program in ("dvc", "pip"):
        verbs = arguments[:2] if arguments[0] in ("exp", "metrics", "plots") else arguments[:1]
        called = subprocess.run([BIN / program, *verbs, "--help"], capture_output=True, text=True, check=False)
        assert called.returncode == 0, called.stderr
        assert options(arguments) <= set(re.findall(r"--[\w-]+", called.stdout))
    else:
        assert program in SHELL, f"{program} is no program that the docs may use unchecked"


def check_verb(command: Any, arguments: list[str], is_complete: bool):
    """Check arguments against a command of Typer or click, or a group of them."""
    while hasattr(command, "commands") and not arguments[0].startswith("-"):
        verb, *arguments = arguments
        found = command.get_command(Context(command), verb)  # mlflow has aliases
        assert found is not None, f"there is no command {verb}"
        command = found
    known = {name for parameter in command.get_params(Context(command)) for name in parameter.opts}
    assert options(arguments) <= known, f"{command.name} has not all of {options(arguments)}"
    if is_complete:
        command.make_context(command.name, arguments).close()  # raises on what is missing or of another type


def options(arguments: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in arguments if word.startswith("--")}


@pytest.mark.parametrize("snippet", snippets("bash"), ids=str)
def test_shell_can_read_it(snippet: Snippet):
    called = subprocess.run(["bash", "-n"], input=snippet.content, capture_output=True, text=True, check=False)
    assert called.returncode == 0, called.stderr


def test_there_are_commands_to_check():
    assert {"make demo", "make test", "dvc repro"} <= set(commands())
    assert "clflow sync" in quoted()


def test_no_snippet_is_unchecked():
    languages = {snippet.language for snippet in snippets()}
    assert languages <= {"bash", "python", "toml", "yaml", "text", "mermaid"}


@pytest.mark.parametrize("snippet", snippets("toml"), ids=str)
def test_toml_can_be_read(snippet: Snippet):
    assert tomllib.loads(snippet.content)


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=str)
def test_parameters_fit_the_schema(snippet: Snippet, tmp_path: Path):
    """As a layer over params.yaml, a snippet is a valid parameter file."""
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "mvtec_ad.yaml").write_text("{search: {}, parameters: {}, overrides: {}}\n")
    tree = {"extends": str(ROOT / "params.yaml")} | YAML(typ="safe").load(snippet.content)
    if "data" in tree:  # which a layer replaces as a whole
        tree.setdefault("benchmark", {"datasets": [*tree["data"]]})
    load(tiny.write_params(tmp_path / "params.yaml", tree))


@pytest.mark.parametrize(
    "path", ["params.yaml", "pipelines/demo.yaml", "reports/real/params.yaml", "reports/real/ablation.yaml"]
)
def test_parameter_files_of_the_project_fit_the_schema(path: str):
    load(ROOT / path)


@pytest.mark.parametrize("snippet", snippets("python"), ids=str)
def test_python_compiles_and_runs_where_it_is_marked(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code = compile(snippet.content, str(snippet), "exec")
    if snippet.runs:
        exec(code, {})


def test_there_are_snippets_that_run():
    assert any(snippet.runs for snippet in snippets("python"))


def links() -> list[tuple[Path, str]]:
    """Page and address of every link and picture within the project."""
    found = [(page, token.attrs["href"]) for page, token in inline("link_open")]
    found += [(page, token.attrs["src"]) for page, token in inline("image")]
    return sorted({(page, link) for page, link in found if not re.match(r"https?://", link)})


@pytest.mark.parametrize(("page", "link"), links(), ids=lambda value: getattr(value, "stem", value))
def test_internal_link_leads_somewhere(page: Path, link: str):
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.is_file()
    if anchor and not GENERATED.search(text := target.read_text(encoding="utf-8")):  # the site's build checks the rest
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_table_ends_at_an_empty_line(page: Path):
    """What follows it at once would be read as one more row."""
    assert not re.search(r"^\|.*\n(?![|\n]|\Z)", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_readme_is_read_in_a_minute():
    assert 6_000 <= (ROOT / "README.md").stat().st_size <= 9_000
