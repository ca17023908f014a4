"""``clflow gc``: what lies in a workspace but is no longer asked for. Nothing else removes results."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clflow.config.params import Params
from clflow.files import TEMPORARY
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import Plan

_DAY = 86_400.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leftover:
    """A folder that nothing asks for.

    Attributes:
        path: the folder.
        size: in bytes, of all files in it.
        age: days since the last of them was written.
    """

    path: Path
    size: int
    age: float

    @classmethod
    def of(cls, path: Path) -> Leftover:
        """Measure a folder."""
        stats = [file.lstat() for file in (path, *path.rglob("*"))]
        age = (time.time() - max(stat.st_mtime for stat in stats)) / _DAY
        return cls(path, sum(stat.st_size for stat in stats), age)


def leftovers(params: Params, workspace: Workspace, keep_days: float) -> list[Leftover]:
    """Cells, scores, synthetic sets and checkpoints that the parameters do not ask for, largest first.

    Args:
        params: of the workspace.
        workspace: what is searched.
        keep_days: what was written within so many days stays.

    Raises:
        DataError, ParameterError, WeightsError: the plan cannot be made; nothing is known to be left over then.
    """
    found = [Leftover.of(path) for path in _unplanned(params, workspace)]
    return sorted((each for each in found if each.age >= keep_days), key=lambda each: -each.size)


def run(params: Params, workspace: Workspace, keep_days: float, remove: bool) -> None:
    """Print what is left over and how much it takes, and remove it if told so."""
    found = leftovers(params, workspace, keep_days)
    for each in found:
        print(f"  {each.path.relative_to(workspace.root)}: {each.size / 1e6:.1f} MB, {each.age:.0f} days old")
        if remove:
            shutil.rmtree(each.path)
    megabytes = sum(each.size for each in found) / 1e6
    if remove:
        _log.info(
            "removed %d folders, %.1f MB; `dvc repro` records it, and `dvc gc` frees the cache.", len(found), megabytes
        )
    else:
        _log.info(
            "%d folders, %.1f MB are no longer asked for; `clflow gc --remove` removes them.", len(found), megabytes
        )


def _unplanned(params: Params, workspace: Workspace) -> Iterator[Path]:
    plans = {dataset: Plan(params, dataset, workspace) for dataset in params.benchmark.datasets}
    cells = {dataset: {cell.name for cell in plan.cells} for dataset, plan in plans.items()}
    sets = {dataset: set(plan.synthetic) for dataset, plan in plans.items()}
    for folder, wanted in (
        (workspace.runs_root, cells),
        (workspace.scores_root, cells),
        (workspace.synthetic_root, sets),
    ):
        for dataset in _folders(folder):
            names = wanted.get(dataset.name, set())
            yield from (path for path in _folders(dataset) if path.name not in names)
    everywhere = set().union(*cells.values())
    yield from (path for path in _folders(workspace.checkpoints) if path.name not in everywhere)


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder, without those that are being written."""
    inside = sorted(folder.iterdir()) if folder.exists() else []
    return [path for path in inside if path.is_dir() and not path.name.startswith(TEMPORARY)]
