"""A workspace for any parameter file: the same dvc.yaml, run by DVC in a folder outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from clflow.config.params import load
from clflow.errors import ParameterError
from clflow.files import write_atomically
from pipelines.compute.signals import run_command

CHECKOUT = Path(__file__).resolve().parent.parent
_PATHS = (("synthesis", "textures"), ("model", "weights"), ("resources", "storage"))
_NAMES = {"hub", "offline"}


def run(params: Path, workspace: Path) -> int:
    """Prepare the workspace, run `dvc repro` in it, print the leaderboard; returns DVC's exit code.

    Raises:
        ParameterError: the parameter file does not fit the schema, or the workspace is the checkout itself.
    """
    prepare(params, workspace)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    code = run_command([sys.executable, "-m", "dvc", "repro"], workspace, environment)
    if code == 0:
        print((workspace / "reports" / "leaderboard.md").read_text(encoding="utf-8"))
        print(f"Leaderboard, plots and galleries: {workspace / 'reports'}")
        print(f"Every run: cd {workspace} && mlflow ui --backend-store-uri sqlite:///mlflow.db")
    return code


def prepare(params: Path, workspace: Path) -> None:
    """Make or update a workspace. Relative paths of the parameter file keep meaning what they meant where it lies."""
    load(params)
    if workspace == CHECKOUT:
        raise ParameterError("the workspace is the checkout itself; name another folder, or run `dvc repro` here.")
    workspace.mkdir(parents=True, exist_ok=True)
    if not (workspace / ".dvc").exists():
        subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=workspace, check=True)
        subprocess.run([sys.executable, "-m", "dvc", "config", "core.analytics", "false"], cwd=workspace, check=True)
    shutil.copyfile(CHECKOUT / ".dvcignore", workspace / ".dvcignore")
    shutil.copyfile(CHECKOUT / "dvc.yaml", workspace / "dvc.yaml")
    for package in ("clflow", "pipelines"):  # what the stages depend on is the code that runs
        link = workspace / package
        if link.is_symlink():
            link.unlink()
        link.symlink_to(CHECKOUT / package, target_is_directory=True)
    (workspace / "tuned").mkdir(exist_ok=True)
    shutil.copyfile(CHECKOUT / "tuned" / "README.md", workspace / "tuned" / "README.md")
    _write_params(params, workspace / "params.yaml")


def _write_params(params: Path, target: Path) -> None:
    yaml = YAML()
    tree = yaml.load(params.read_text(encoding="utf-8"))
    layers = [tree, *tree["overrides"].values(), *tree["variants"].values()]
    places = [(tree, "tuned")]
    places += [(layer[part], key) for layer in layers for part, key in _PATHS if key in layer.get(part, {})]
    places += [(dataset, "source") for dataset in tree["data"].values()]
    for section, key in places:
        value = section[key]
        if value is not None and value not in _NAMES and "://" not in value:
            section[key] = str((params.parent / value).resolve())
    with write_atomically(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)
