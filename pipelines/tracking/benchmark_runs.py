"""Parent runs in MLflow: one per execution of the benchmark, above the runs of the cells it trained."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from clflow.files import file_sha256, fingerprint, read_json
from clflow.metrics import METRICS
from clflow.rates import RATES
from pipelines.tracking.executions import Execution, Executions
from pipelines.tracking.runs import EXECUTION, RESULTS, ROLE, Runs, flat, now
from pipelines.workspace.paths import Workspace

_DESCRIBED = "clflow.described"


class BenchmarkRuns:
    """Parent runs of a workspace's executions."""

    def __init__(self, runs: Runs, workspace: Workspace):
        self._runs = runs
        self._workspace = workspace
        self._ids: dict[str, str] = {}

    def of(self, execution: Execution) -> str:
        """Id of an execution's run; created with commit, parameters and protocol if it does not exist."""
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
        """Mark an execution as failed until its results are reported."""
        self._runs.client.set_terminated(self.of(execution), "FAILED")

    def log_results(self, execution: Execution) -> None:
        """Log metrics and pages in reports/ as an execution's results, unless they are logged already."""
        run, means = self.of(execution), read_json(self._workspace.metrics)
        figures = {
            f"{dataset}.{method}.{name}": float(value)
            for dataset, methods in means.items()
            for method, metrics in methods.items()
            for name, value in metrics.items()
        }
        figures |= _headline(means, execution.params["benchmark"]["methods"][0])
        state = fingerprint([figures, self._pages()])
        if self._runs.client.get_run(run).data.tags.get(RESULTS) == state:
            return
        self._runs.log_figures(run, figures, now(), step=0)
        self._log_pages(run)
        self._runs.set_tags(run, {RESULTS: state})
        self._runs.client.set_terminated(run)

    def _pages(self) -> dict[str, str]:
        """SHA-256 of every file of the pages."""
        found = (file for page in self._workspace.pages for file in (page, *page.rglob("*")) if file.is_file())
        return {str(file.relative_to(self._workspace.reports)): file_sha256(file) for file in sorted(found)}

    def _log_pages(self, run: str) -> None:
        """Log the pages with their paths below reports/, so that their links to pictures work."""
        for page in filter(Path.exists, self._workspace.pages):
            if page.is_dir():
                self._runs.client.log_artifacts(run, str(page), page.name)
            else:
                self._runs.client.log_artifact(run, str(page))

    def _describe(self, run: str, execution: Execution) -> None:
        protocol = execution.params["protocol"]
        block = {"hash": fingerprint(protocol), "protocol": protocol}
        self._runs.log_params(run, flat(execution.params))
        self._runs.client.log_dict(run, execution.params, "params.yaml")
        self._runs.client.log_dict(run, block, "protocol.json")
        tags = {"commit": execution.commit, "clflow.protocol_hash": block["hash"], _DESCRIBED: "true"}
        self._runs.set_tags(run, tags)


def _headline(means: dict[str, dict[str, dict[str, float]]], method: str) -> dict[str, float]:
    """Means of a method over all datasets, named like metrics of cells, to share columns in MLflow's table of runs."""
    of_method = [methods[method] for methods in means.values() if method in methods]
    values = {name: [figures[name] for figures in of_method if name in figures] for name in (*METRICS, *RATES)}
    return {f"test_{name}": fmean(found) for name, found in values.items() if found}
