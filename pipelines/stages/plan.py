"""Stage `plan`: which synthetic sets, cells and scores are asked for, written where DVC's other stages see it."""

from __future__ import annotations

from clflow.config.params import Params
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import FIRST, SECOND, Plan


def run(params: Params, dataset: str, workspace: Workspace, inputs_only: bool = False) -> None:
    """Write the plan of a dataset and print it in short.

    Args:
        inputs_only: write only what does not depend on what a search finds.

    Raises:
        DataError: the dataset is not there yet.
        ParameterError, WeightsError: what the parameters name does not exist.
    """
    plan = Plan(params, dataset, workspace)
    plan.write(FIRST)
    if inputs_only:
        print(f"{dataset}: {len(plan.synthetic)} sets of synthetic anomalies")
    else:
        plan.write(SECOND)
        print("\n".join(plan.describe()))


def explain(params: Params, dataset: str, workspace: Workspace, cell: str) -> None:
    """Print why a cell is to be trained; see `Plan.explain`."""
    print("\n".join(Plan(params, dataset, workspace).explain(cell)))
