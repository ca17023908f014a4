"""A workspace for any parameter file: the same dvc.yaml, run by DVC in a folder outside the checkout."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from clflow.config.params import check, effective
from clflow.config.show import render
from clflow.errors import ClflowError, ParameterError
from clflow.files import file_sha256, read_json, require_writable, write_json
from pipelines.compute.signals import run_command
from pipelines.workspace.names import require_known
from pipelines.workspace.outputs import MARKER, Outputs
from pipelines.workspace.paths import Workspace

CHECKOUT = Path(__file__).resolve().parent.parent
_log = logging.getLogger(__name__)
_COMMAND = "clflow benchmark"
_PARAMS = "params.yaml"
_COPIES = (".dvcignore", "dvc.yaml", "tuned/README.md")
_PACKAGES = ("clflow", "pipelines")  # what the stages depend on is the code that runs
PATIENCE_S = 15.0
"""As long as an interrupted command may take to end."""

_STDERR = 2  # what DVC and the stages print is progress here: the result is the leaderboard
_FILLED = ("data", "plan", "synthetic", "runs", "scores", "reports", "tuned", "logs")


def run(params: Path, workspace: Path) -> None:
    """Prepare the workspace, run `dvc repro` in it, print the leaderboard.

    Raises:
        ClflowError: see `prepare`; a stage failed, which said why; or another DVC works in the workspace.
    """
    _wait_for_others(workspace)
    prepare(params, workspace)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    output = _STDERR if _log.isEnabledFor(logging.INFO) else subprocess.DEVNULL
    if run_command([sys.executable, "-m", "dvc", "repro"], workspace, environment, output) != 0:
        raise ClflowError(
            f"the benchmark in {workspace} stopped for the reason above; what is finished is kept: mend it and run the "
            "same command again."
        )
    made = Workspace(workspace)
    print(made.leaderboard_page.read_text(encoding="utf-8"))
    _log.info("The whole report: %s", made.page)


def prepare(params: Path, workspace: Path) -> None:
    """Make or update a workspace.

    Its parameters are complete, so that DVC sees every value, and its paths absolute, so that they keep meaning what
    they mean in the parameter file.

    Raises:
        ParameterError: the parameter file does not fit the schema, names what does not exist, or the workspace is the
            checkout itself.
        ClflowError: the folder is no workspace, cannot be written, or is that of another parameter file, or its copies
            were edited.
    """
    if find_spec("dvc") is None:
        raise ClflowError("DVC, which runs the pipeline, is not installed; pip install 'clflow[workflow]'.")
    found = effective(params)
    require_known(check(found))
    if workspace == CHECKOUT:
        raise ParameterError("the workspace is the checkout itself; name another folder, or run `dvc repro` here.")
    require_writable(workspace, "--workspace")
    record, outputs = Workspace(workspace).owner_record, Outputs(workspace)
    if not (workspace / MARKER).exists():
        _require_free(workspace)
    elif record.exists():
        _require_same(params, workspace, read_json(record))
    _require_unedited(outputs, params, workspace, found.tree)
    with outputs.replace(_COMMAND) as staging:
        for name in _COPIES:
            (staging / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(CHECKOUT / name, staging / name)
        (staging / _PARAMS).write_text(
            f"# Made of {params}, which is the file to edit.\n{render(found)}", encoding="utf-8"
        )
    write_json(record, {"params": os.path.relpath(params, workspace), "sha256": file_sha256(params)})
    if not (workspace / ".dvc").exists():
        subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=workspace, check=True)
        subprocess.run([sys.executable, "-m", "dvc", "config", "core.analytics", "false"], cwd=workspace, check=True)
    for package in _PACKAGES:
        link = workspace / package
        link.unlink(missing_ok=True)
        link.symlink_to(CHECKOUT / package, target_is_directory=True)


def _wait_for_others(workspace: Path) -> None:
    """Let a DVC that was interrupted just now end first.

    Raises:
        ClflowError: one still works in the workspace after `PATIENCE_S` seconds.
    """
    deadline = time.monotonic() + PATIENCE_S
    while (busy := _working(workspace)) and time.monotonic() < deadline:
        time.sleep(0.2)
    if busy:
        raise ClflowError(
            f"another benchmark works in {workspace} (process {busy[0]}); wait until it ends, or name another folder."
        )


def _working(workspace: Path) -> list[int]:
    """The processes that DVC's lock of a workspace names, of those that live."""
    lock = workspace / ".dvc" / "tmp" / "rwlock"
    try:
        held = read_json(lock)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # DVC rewrites it in place
        return []
    readers = [reader for of_path in held.get("read", {}).values() for reader in of_path]
    owners = [*held.get("write", {}).values(), *readers]  # DVC leaves out what nobody holds
    return [owner["pid"] for owner in owners if psutil.pid_exists(owner["pid"])]


def _require_free(workspace: Path) -> None:
    """Make sure that a new workspace replaces nothing."""
    taken = [name for name in (".dvc", *_COPIES, _PARAMS, *_PACKAGES, *_FILLED) if os.path.lexists(workspace / name)]
    if taken:
        raise ClflowError(
            f"{workspace} holds {taken[0]}, but is no workspace that `{_COMMAND}` made; name another folder."
        )


def _require_same(params: Path, workspace: Path, record: dict[str, str]) -> None:
    """Make sure that the workspace belongs to the parameter file, which may have been moved."""
    owner = (workspace / record["params"]).resolve()
    if owner != params and owner.exists() and record["sha256"] != file_sha256(params):
        raise ClflowError(
            f"workspace {workspace} belongs to {owner}, not to {params}; name another folder, or change {owner}."
        )


def _require_unedited(outputs: Outputs, params: Path, workspace: Path, tree: Any) -> None:
    """Make sure that no edit of a copy would be lost; one that is also made in the parameter file is not."""
    edited = outputs.changed(_COMMAND)
    if edited == [_PARAMS] and YAML(typ="safe").load(workspace / _PARAMS) == tree:
        (workspace / _PARAMS).unlink()
    elif edited:
        copy, source = workspace / edited[0], params if edited[0] == _PARAMS else CHECKOUT / edited[0]
        raise ClflowError(
            f"{copy} was edited since `{_COMMAND}` wrote it from {source}, and the edit would be lost; run `dvc repro` "
            f"in {workspace} to use it, or make the edit in {source} and delete the copy."
        )
