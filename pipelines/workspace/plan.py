"""The plan: which synthetic sets, cells and scores the parameters ask for, their keys, and what each is made of.

Every stage computes what it works on with the functions here, and DVC's stages depend on what `write` leaves of the
same functions, so the two cannot disagree about what is current. The plan has two steps, because a search runs between
them: what it finds determines the cells that are trained with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from clflow.config.params import Params
from clflow.data.manifest import category_rows, data_hash, read_manifest
from clflow.errors import ParameterError
from clflow.files import fingerprint, read_json, sweep, write_json
from clflow.provenance import files_of
from clflow.synthesis.category import synthesis_inputs
from pipelines.workspace.cells import ALL, MARKER, Cell, Selection
from pipelines.workspace.keys import Inputs, code_inputs, differences, scoring_inputs, training_inputs
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import is_scored, is_trained

FIRST = ("synthesize", "tune")
"""Stages whose part of the plan does not depend on what a search finds."""

SECOND = ("train", "evaluate", "aggregate", "report", "promote")


@dataclass(frozen=True)
class SyntheticSet:
    """A set of synthetic anomalies that is asked for.

    Attributes:
        name: of its folder.
        rows: the normal training images that it is made of.
        params: those of its category.
        inputs: what determines it.
    """

    name: str
    rows: pd.DataFrame
    params: Params
    inputs: Inputs

    @property
    def key(self) -> str:
        """What names its content."""
        return fingerprint(self.inputs)


@dataclass(frozen=True)
class Plan:
    """All that is asked for of one dataset.

    Attributes:
        params: of the workspace.
        dataset: its name.
        workspace: whose data it is made of.
    """

    params: Params
    dataset: str
    workspace: Workspace

    @property
    def categories(self) -> tuple[str, ...]:
        """Of the dataset.

        Raises:
            ParameterError: the parameters do not describe it.
        """
        if self.dataset not in self.params.data:
            raise ParameterError(f"the parameters do not describe dataset {self.dataset!r}; add it under data.")
        return self.params.data[self.dataset].categories

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """The sample table.

        Raises:
            DataError: the dataset is not there yet.
        """
        return read_manifest(self.workspace.data(self.dataset))

    @cached_property
    def synthetic(self) -> dict[str, SyntheticSet]:
        """Sets of synthetic anomalies by name: one per category, and one more for each variant with a synthesis.

        Raises:
            DataError: the dataset or a texture folder is missing.
        """
        methods = dict.fromkeys((self.params.tune.method, *self.params.benchmark.methods))
        wanted = {self.params.synthetic_set(c, method): (c, method) for c in self.categories for method in methods}
        return {name: self._synthetic(name, *of) for name, of in wanted.items()}

    @cached_property
    def trained(self) -> dict[Cell, Inputs]:
        """The cells that the benchmark asks for and what determines each, in the order of params.yaml.

        Raises:
            DataError: the dataset is not there yet.
            ParameterError, WeightsError: a method, backbone or weights file does not exist.
        """
        planned = {}
        for category in self.categories:
            rows = category_rows(self.manifest, category, "train")
            data = data_hash(rows)
            for method in self.params.benchmark.methods:
                given = self.params.for_category(self.dataset, category, method)
                synthetic = self.synthetic[self.params.synthetic_set(category, method)]
                inputs = training_inputs(given, method, data, synthetic.key)
                for seed in self.params.benchmark.seeds:
                    key = fingerprint([self.dataset, category, method, seed, inputs])
                    planned[Cell(self.dataset, category, method, seed, key, len(rows))] = inputs
        return planned

    @property
    def cells(self) -> list[Cell]:
        """See `trained`."""
        return list(self.trained)

    def require_weights(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Make sure that pretrained weights can be loaded; see `clflow.features.backbone.require_weights`.

        Args:
            wanted: each a category and a method.

        Raises:
            ParameterError, WeightsError: a backbone or its weights are not there.
        """
        from clflow.features.backbone import require_weights
        from clflow.features.weights import find_weights

        models = [self.params.for_category(self.dataset, *each).model for each in wanted]
        for backbone, weights in sorted({(model.backbone, model.weights) for model in models}):
            require_weights(find_weights(backbone, weights))

    @cached_property
    def scored(self) -> dict[Cell, Inputs]:
        """The same for the scores of each cell."""
        tests = {c: data_hash(category_rows(self.manifest, c, "test")) for c in self.categories}
        return {cell: scoring_inputs(cell.method, cell.key, tests[cell.category]) for cell in self.trained}

    def search_inputs(self, categories: tuple[str, ...]) -> Inputs:
        """What determines the trials of a search for categories together; how many are asked for does not.

        Raises:
            DataError, ParameterError, WeightsError: as for `trained`.
        """
        method = self.params.tune.method
        of_each = {
            category: training_inputs(
                self.params.for_category(self.dataset, category, method),
                method,
                data_hash(category_rows(self.manifest, category, "train")),
                self.synthetic[self.params.synthetic_set(category, method)].key,
            )
            for category in categories
        }
        settings = self.params.tune.model_dump(mode="json", exclude={"datasets", "trials", "timeout"})
        return {"dataset": self.dataset, "categories": of_each, "settings": settings}

    def write(self, stages: tuple[str, ...] = FIRST + SECOND) -> None:
        """Write what each of these stages depends on; with `SECOND`, the plan as a person reads it, too."""
        for stage in stages:
            sweep(self.workspace.plan(self.dataset, stage).parent)  # DVC looks at the folder as a whole
            write_json(self.workspace.plan(self.dataset, stage), getattr(self, f"_{stage}")())
        if set(SECOND) <= set(stages):
            write_json(self.workspace.plan(self.dataset), self._page())

    def describe(self, selection: Selection = ALL) -> list[str]:
        """A summary of the selected cells, and a line for each that is to be trained or scored."""
        cells = selection.of(self.cells)
        untrained = [cell for cell in cells if not is_trained(cell, self.workspace)]
        unscored = [cell for cell in cells if cell not in untrained and not is_scored(cell, self.workspace)]
        head = f"{self.dataset}: {len(cells)} cells, {len(untrained)} to train, {len(unscored)} to score"
        return [
            head,
            *(f"  train {cell.name} ({cell.train_images} normal images)" for cell in untrained),
            *(f"  score {cell.name}" for cell in unscored),
        ]

    def explain(self, name: str) -> list[str]:
        """Why a cell is to be trained: what changed against the newest folder of the same category, method and seed.

        Args:
            name: ``<category>-<method>-s<seed>``, with or without a key behind it.

        Raises:
            ParameterError: no such cell is asked for.
        """
        cell = next((cell for cell in self.cells if name in (cell.stem, cell.name)), None)
        if cell is None:
            known = ", ".join(cell.stem for cell in self.cells[:5])
            raise ParameterError(f"{self.dataset} has no cell {name!r} in the plan; it has {known}, ...")
        if is_trained(cell, self.workspace):
            return [f"{cell.name} is trained"]
        former = _newest(self.workspace.runs(self.dataset).glob(f"{cell.stem}-*/{MARKER}"))
        if former is None:
            return [f"{cell.name} is new: no cell of this category, method and seed was trained here"]
        changed = differences(read_json(former).get("inputs", {}), self.trained[cell])
        lines = [f"{cell.name} is to be trained; against {former.parent.name}:"]
        lines += [f"  {line}" for line in changed]
        return lines + self._explain_synthetic(cell, changed)

    def _explain_synthetic(self, cell: Cell, changed: list[str]) -> list[str]:
        if not any(line.startswith("synthetic:") for line in changed):
            return []
        name = self.params.synthetic_set(cell.category, cell.method)
        marker = self.workspace.synthetic(self.dataset, name) / "synthesis.json"
        if not marker.exists():
            return [f"  synthetic anomalies {name} are not there yet"]
        found = differences(read_json(marker)["inputs"], self.synthetic[name].inputs)
        return [f"  synthetic anomalies {name}: {line}" for line in found]

    def _synthetic(self, name: str, category: str, method: str) -> SyntheticSet:
        own = self.params.for_category(self.dataset, category, method)
        if own.synthesis.textures is not None:
            textures = str(self.workspace.root / Path(own.synthesis.textures).expanduser())
            own = own.model_copy(update={"synthesis": own.synthesis.model_copy(update={"textures": textures})})
        rows = category_rows(self.manifest, category, "train")
        normal = rows.loc[rows["label"] == 0].reset_index(drop=True)
        return SyntheticSet(name, normal, own, synthesis_inputs(normal, own))

    def _synthesize(self) -> Any:
        return {name: wanted.key for name, wanted in self.synthetic.items()}

    def _tune(self) -> Any:
        if self.dataset not in self.params.tune.datasets:
            return None
        search = fingerprint(self.search_inputs(self.categories))
        return {"search": search, "trials": self.params.tune.trials, "timeout": self.params.tune.timeout}

    def _train(self) -> Any:
        return [cell.name for cell in self.cells]

    def _evaluate(self) -> Any:
        return {cell.name: fingerprint(inputs) for cell, inputs in self.scored.items()}

    def _aggregate(self) -> Any:
        protocol = self.params.protocol.model_dump(mode="json")
        return {"cells": self._evaluate(), "protocol": protocol, **code_inputs("pipelines.reporting.tables")}

    def _report(self) -> Any:
        model, benchmark = self.params.model, self.params.benchmark.model_dump(mode="json", exclude={"datasets"})
        shown = {"benchmark": benchmark, "backbone": model.backbone, "strides": list(model.strides)}
        templates = files_of("pipelines/reporting/page")
        return {
            **{"cells": self._evaluate(), "shown": shown, "templates": templates},
            **code_inputs("pipelines.reporting.pages"),
        }

    def _promote(self) -> Any:
        if self.dataset not in self.params.promotion.datasets:
            return None
        chosen = self.params.promotion.method, self.params.promotion.seed
        cells = [cell.name for cell in self.cells if (cell.method, cell.seed) == chosen]
        rules = self.params.promotion.model_dump(mode="json", exclude={"datasets"})
        experiment = self.params.tracking.experiment
        code = code_inputs("pipelines.registry.evidence", "pipelines.registry.gate")
        return {"cells": cells, "rules": rules, "experiment": experiment, **code}

    def _page(self) -> Any:
        return {
            "dataset": self.dataset,
            "synthetic": {
                name: {"key": wanted.key, "inputs": wanted.inputs} for name, wanted in self.synthetic.items()
            },
            "cells": [
                {
                    "cell": cell.name,
                    **{"category": cell.category, "method": cell.method, "seed": cell.seed},
                    "key": cell.key,
                    "inputs": self.trained[cell],
                    "scores": {"key": fingerprint(self.scored[cell]), "inputs": self.scored[cell]},
                }
                for cell in self.cells
            ],
        }


def plan_cells(params: Params, workspace: Workspace) -> list[Cell]:
    """The cells of all datasets of the benchmark; see `Plan.trained`."""
    return [cell for dataset in params.benchmark.datasets for cell in Plan(params, dataset, workspace).cells]


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
