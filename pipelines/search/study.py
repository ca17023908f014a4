"""A search, the files that remember its trials, and what it found. How it is run is in ``tune.py``."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from ruamel.yaml import YAML

from clflow.config.params import Override, Params
from clflow.errors import ClflowError, ParameterError
from clflow.files import fingerprint, read_json, write_atomically, write_json
from clflow.provenance import commit
from clflow.training.validation import VALIDATION
from pipelines.workspace.plan import Plan

_log = logging.getLogger(__name__)

OBJECTIVE = VALIDATION
"""What a search raises: the mean of categories and seeds."""

DIVERGED = "diverged"
"""Key of a report that says why a training came to nothing. It is a result, and the worst: to be told the sampler, and
not to be tried again."""

_SEAL = "# clflow tune, SHA-256 of what follows: "


@dataclass(frozen=True)
class Record:
    """A trial that has ended.

    Attributes:
        number: counted from 0, the trial with the present parameters.
        state: a trial stopped early was poor at an evaluation; a failed one has an ``error``.
        values: what was drawn, by the keys of the search space.
        curve: the figures of each evaluation, `OBJECTIVE` among them.
    """

    number: int
    state: Literal["finished", "stopped", "failed"]
    values: dict[str, Any]
    curve: list[dict[str, float]]
    seconds: float
    error: str | None

    @property
    def objective(self) -> float | None:
        """The objective at the last evaluation; None if the trial failed before the first."""
        return self.curve[-1][OBJECTIVE] if self.curve else None


@dataclass(frozen=True)
class Search:
    """One search: the categories that share a configuration, and the hash of all that determines its trials."""

    dataset: str
    categories: tuple[str, ...]
    key: str
    folder: Path

    @classmethod
    def of(cls, plan: Plan, categories: tuple[str, ...]) -> Search:
        """The search of some categories of a plan's dataset.

        Raises:
            DataError, ParameterError, WeightsError: see `Plan.search_inputs`.
        """
        key = fingerprint(plan.search_inputs(categories))
        return cls(plan.dataset, categories, key, plan.workspace.search(key))

    @property
    def name(self) -> str:
        """Name for display."""
        return f"{self.dataset} ({', '.join(self.categories)})"

    def records(self) -> list[Record]:
        """All trials that have ended, in the order they began."""
        return [Record(**read_json(path)) for path in sorted(self.folder.glob("[0-9]*.json"))]

    def keep(self, record: Record) -> None:
        """Store a trial that has ended."""
        write_json(self.folder / f"{record.number:04}.json", asdict(record))


def present_values(params: Params) -> dict[str, Any]:
    """The present parameters, by the keys of the search space: where a search begins and what it must beat.

    Raises:
        ParameterError: one of them lies outside the space.
    """
    tree = params.model_dump(mode="json")
    values = {}
    for key, distribution in params.tune.space.items():
        section, _, name = key.partition(".")
        values[key] = tree[section][name]
        if not distribution.contains(values[key]):
            raise ParameterError(f"tune.space.{key} does not contain the present value {values[key]!r}; widen it.")
    return values


def best(records: list[Record]) -> Record | None:
    """The finished trial of highest objective, the earliest of equals; one stopped early was trained less."""
    finished = [record for record in records if record.state == "finished"]
    return max(finished, key=lambda record: (record.objective or 0.0, -record.number), default=None)


def require_replaceable(target: Path) -> None:
    """Make sure that the files that `write_found` replaces were written by it and not edited since.

    Raises:
        ClflowError: one of them was not.
    """
    if not target.exists():
        ours = not target.with_suffix(".csv").exists()
    else:
        seal, _, found = target.read_text(encoding="utf-8").partition("\n")
        ours = seal == f"{_SEAL}{fingerprint(found)}"
    if not ours:
        raise ClflowError(
            f"{target} or its table was not written by `clflow tune`, or was edited since; move both to another name."
        )


def write_found(searches: list[Search], each: bool, params: Params, target: Path) -> None:
    """Write what was found to ``target``, a file that params.yaml can name, and beside it a table of all trials.

    Args:
        searches: those that ended.
        each: whether each was of one category, for that category only.
        target: the YAML file; the table has its name with the ending ``.csv``.

    Raises:
        ClflowError: no trial of a search finished.
    """
    notes: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    tables = []
    for search in searches:
        records = search.records()
        winner = best(records)
        if winner is None:
            errors = sorted({record.error for record in records if record.error is not None})
            raise ClflowError(f"no trial of {search.name} finished: {'; '.join(errors) or 'give it more time'}")
        default = next((r.objective for r in records if r.number == 0 and r.state == "finished"), None)
        states = [record.state for record in records]
        notes[search.name] = {
            "method": params.tune.method,
            "seeds": list(params.tune.seeds),
            "objective": OBJECTIVE,
            "found": winner.objective,
            "default": default,
            "trial": winner.number,
            "trials": {state: states.count(state) for state in sorted(set(states))},
            "key": search.key,
            "commit": commit(),
        }
        found = Override.of(winner.values).model_dump(exclude_defaults=True)
        if each:
            overrides[f"{search.dataset}/{search.categories[0]}"] = found
        else:
            parameters = found
        tables.append(_table(search, records))
        before = "unknown" if default is None else f"{default:.4f}"
        if winner.number == 0:
            print(f"{search.name}: no trial is better than the present parameters, whose {OBJECTIVE} is {before}")
        else:
            print(f"{search.name}: {OBJECTIVE} {before} by default, {winner.objective:.4f} in trial {winner.number}")
    found = StringIO()
    if all(note["trial"] == 0 for note in notes.values()):  # DVC asks for the file all the same
        found.write("# Nothing better than the present parameters was found, so these are stated here.\n")
    found.write("# Found by `clflow tune`. To train with it, name this file under `tuned` in params.yaml and add\n")
    found.write(f"# {params.tune.method}-tuned to benchmark.methods.\n")
    YAML().dump({"search": notes, "parameters": parameters, "overrides": overrides}, found)
    with write_atomically(target) as temporary:
        temporary.write_text(f"{_SEAL}{fingerprint(found.getvalue())}\n{found.getvalue()}", encoding="utf-8")
    with write_atomically(target.with_suffix(".csv")) as temporary:
        pd.concat(tables).to_csv(temporary, index=False, lineterminator="\n")
    _log.info("written: %s and its trials, %s", target, target.with_suffix(".csv").name)


def _table(search: Search, records: list[Record]) -> pd.DataFrame:
    rows = [
        {
            "search": search.name,
            "trial": record.number,
            "state": record.state,
            "eval_points": len(record.curve),
            **record.values,
            **(record.curve[-1] if record.curve else {}),
            "seconds": record.seconds,
            "error": record.error,
        }
        for record in records
    ]
    return pd.DataFrame(rows)
