"""Every command in the README and on the docs pages exists as it is written there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from clflow.config.params import load
from pipelines.cli import app
from tests import tiny
from tests.pipelines.command import BIN

ROOT = Path(__file__).parents[1]
PAGES = {
    path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
TEXT = "\n".join(PAGES.values())


def commands() -> list[str]:
    """Lines of the shell blocks, and commands quoted in the text."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    quoted = re.findall(r"`((?:clflow|make|dvc) [^`]+)`", TEXT)
    return sorted({" ".join(command.split()) for command in [*lines, *quoted] if command})


@pytest.mark.parametrize("command", commands())
def test_command_exists(command: str):
    program, verb, *options = shlex.split(command)
    options = [option for option in options if option.startswith("--")]
    if program == "make":
        arguments = ["make", "--dry-run", verb, *[word for word in shlex.split(command)[2:] if "=" in word]]
        result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return
    if program == "clflow":  # in this process, which has imported it already
        called = CliRunner().invoke(app, [verb, "--help"])
        code, said, errors = called.exit_code, called.stdout, called.stderr
    else:
        deeper = [word for word in shlex.split(command)[2:3] if verb in ("metrics", "exp")]
        arguments = [str(BIN / program), verb, *deeper, "--help"]
        result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        code, said, errors = result.returncode, result.stdout, result.stderr
    assert code == 0, errors
    known = set(re.findall(r"--[\w-]+", re.sub(r"\x1b\[[0-9;]*m", "", said)))
    assert set(options) <= known, f"{program} {verb} has not all of {options}"


def test_there_are_commands_to_check():
    assert {"make demo", "make test", "dvc repro"} <= set(commands())


def test_example_of_own_images_fits_the_schema(tmp_path: Path):
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    tree = YAML(typ="safe").load(ROOT / "pipelines" / "demo.yaml") | YAML(typ="safe").load(example)
    params = load(tiny.write_params(tmp_path / "params.yaml", tree))
    assert params.data["folder"].categories == ("housing", "seal")


@pytest.mark.parametrize(
    "path", ["params.yaml", "pipelines/demo.yaml", "reports/real/params.yaml", "reports/real/ablation.yaml"]
)
def test_parameter_files_of_the_project_fit_the_schema(path: str):
    load(ROOT / path)


@pytest.mark.parametrize(
    ("page", "link"),
    [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(((?!http)[^)]+)\)", text)],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_relative_link_leads_somewhere(page: Path, link: str):
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
