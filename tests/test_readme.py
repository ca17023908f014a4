"""Every command in the README exists as it is written there."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Lines of the shell blocks, and commands quoted in the text."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    quoted = re.findall(r"`((?:clflow|make|dvc) [^`]+)`", README)
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
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    tree = {"extends": "base"} | YAML(typ="safe").load(example)
    params = load(tiny.write_params(tmp_path / "params.yaml", tree))
    assert params.data["folder"].categories == ("housing", "seal")


@pytest.mark.parametrize(
    "path", ["params.yaml", "pipelines/demo.yaml", "reports/real/params.yaml", "reports/real/ablation.yaml"]
)
def test_parameter_files_of_the_project_fit_the_schema(path: str):
    load(ROOT / path)


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_relative_link_leads_somewhere(link: str):
    path, _, anchor = link.partition("#")
    assert (ROOT / path).exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
