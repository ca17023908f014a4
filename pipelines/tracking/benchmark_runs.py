"""The run of each execution of the benchmark: the parent of the runs of those cells that it trained."""

from __future__ import annotations

from pathlib import Path

from clflow.files import fingerprint, read_json
from pipelines.tracking.executions import Execution, Executions
from pipelines.tracking.runs import EXECUTION, RESULTS, ROLE, Runs, flat, now
from pipelines.workspace.paths import Workspace

_DESCRIBED = "clflow.described"


class BenchmarkRuns:
    """The runs of a workspace's executions."""

    def __init__(self, runs: Runs, workspace: Workspace):
        self._runs = runs
        self._workspace = workspace
        self._ids: dict[str, str] = {}

    def of(self, execution: Execution) -> str:
        """Id of an execution's run; it is made, with commit, parameters and protocol, if there is none."""
        if execution.id not in self._ids:
            tags = {ROLE: "benchmark", EXECUTION: execution.id}
            name = execution.params["benchmark"]["name"]
            with Executions(self._workspace).lock():
                run = self._runs.find(tags) or self._runs.create(name, tags, began=execution.began)
                if _DESCRIBED not in run.data.tags:
                    self._describe(run.info.run_id, execution)
            self._ids[execution.id] = run.info.run_id
        return self._ids[execution.id]

    def log_failure(self, execution: Execution) -> None:
        """Mark an execution as failed, which it is until its results are reported."""
        self._runs.client.set_terminated(self.of(execution), "FAILED")

    def log_results(self, execution: Execution) -> None:
        """Log what reports/ holds as the results of an execution, unless they are logged."""
        reports, run = self._workspace, self.of(execution)
        figures = {
            f"{dataset}.{method}.{name}": float(value)
            for dataset, methods in read_json(self._workspace.metrics).items()
            for method, metrics in methods.items()
            for name, value in metrics.items()
        }
        state = fingerprint(figures)
        if self._runs.client.get_run(run).data.tags.get(RESULTS) == state:
            return
        self._runs.log_figures(run, figures, now(), step=0)
        for path in filter(Path.exists, (reports.leaderboard_table, reports.leaderboard_page, reports.cells_table)):
            self._runs.client.log_artifact(run, str(path))
        self._runs.set_tags(run, {RESULTS: state})
        self._runs.client.set_terminated(run)

    def _describe(self, run: str, execution: Execution) -> None:
        protocol = execution.params["protocol"]
        block = {"hash": fingerprint(protocol), "protocol": protocol}
        self._runs.log_params(run, flat(execution.params))
        self._runs.client.log_dict(run, execution.params, "params.yaml")
        self._runs.client.log_dict(run, block, "protocol.json")
        tags = {"commit": execution.commit, "clflow.protocol_hash": block["hash"], _DESCRIBED: "true"}
        self._runs.set_tags(run, tags)
