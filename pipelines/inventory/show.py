"""``clflow show``: all that is known of one cell or model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from clflow.config.params import Params
from clflow.errors import ClflowError
from pipelines.inventory import cells, models
from pipelines.registry.locate import SCHEME
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import is_trained

_log = logging.getLogger(__name__)


def show(name: str, params: Params, datasets: Sequence[str], workspace: Workspace) -> dict[str, Any]:
    """A model by its reference, ``models:/...``, see `models.describe`; or else a cell, see `cells.describe`, with its
    run in MLflow as ``mlflow``: None if it has none, or if MLflow does not answer, of which a warning tells.

    Raises:
        ClflowError: there is no such cell or model.
        DataError, ParameterError, WeightsError: the plan cannot be made.
    """
    if name.startswith(SCHEME):
        return models.describe(name, workspace)
    entry = cells.find(name, params, datasets, workspace)
    described = cells.describe(entry, params, workspace)
    return described | {"mlflow": _run(entry.cell, params, workspace)}


def _run(cell: Cell, params: Params, workspace: Workspace) -> dict[str, str] | None:
    if not is_trained(cell, workspace):
        return None
    try:
        return models.run_of(cell, params, workspace)
    except ClflowError as error:
        _log.warning("%s", error)
        return None
