"""The runs of searches: a parent per search and, below it, one per trial that ended."""

from __future__ import annotations

import secrets

from clflow.files import write_atomically
from pipelines.search.study import Record, Search
from pipelines.tracking.runs import ROLE, Runs, now

_SEARCH, _TRIAL, _DONE = "clflow.search", "clflow.trial", "clflow.logged"


class SearchRuns:
    """The runs of searches in one experiment."""

    def __init__(self, runs: Runs):
        self._runs = runs

    def log_trial(self, search: Search, record: Record) -> None:
        """Log a trial that has ended, unless it is logged."""
        identity = _identity(search)
        trial = {_TRIAL: f"{identity}-{record.number}"}
        run = self._runs.find(trial)
        if run is not None and _DONE in run.data.tags:
            return
        parent = self._parent(search, identity)
        run = run or self._runs.create(f"trial {record.number}", {ROLE: "trial"} | trial, parent)
        id, ended = run.info.run_id, now()
        step = int(record.curve[-1]["step"]) if record.curve else 0
        self._runs.log_points(id, record.curve, ended)
        self._runs.log_figures(id, {"seconds": record.seconds}, ended, step)
        self._runs.log_params(id, record.values)
        self._runs.set_tags(id, {"state": record.state, "error": record.error or "", _DONE: "true"})
        self._runs.client.set_terminated(id, "FAILED" if record.state == "failed" else "FINISHED")
        self._runs.client.set_terminated(parent)

    def _parent(self, search: Search, identity: str) -> str:
        tags = {ROLE: "search", _SEARCH: identity, "clflow.search_key": search.key}
        tags |= {"dataset": search.dataset, "categories": ", ".join(search.categories)}
        run = self._runs.find({_SEARCH: identity}) or self._runs.create(f"search {search.name}", tags)
        return run.info.run_id


def _identity(search: Search) -> str:
    """Identifier of a search in this workspace; stored beside its trials."""
    path = search.folder / "search_id"
    if not path.exists():
        with write_atomically(path) as temporary:
            temporary.write_text(secrets.token_hex(8))
    return path.read_text()
