"""The MLflow model registry: one registered model per category; its aliases name the versions in use.

MLflow has no compare-and-swap for aliases. Creating a registered model is atomic, in a database and over HTTP: it
fails if the name exists. So an empty registered model, named after the category's, is the lock under which the champion
changes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from clflow.errors import ClflowError, PromotionError
from pipelines.registry.evidence import FILE, Evidence
from pipelines.registry.locate import CHAMPION, SCHEME, download
from pipelines.tracking.runs import CELL_KEY, MODEL, RECORD, Runs
from pipelines.tracking.server import reason
from pipelines.workspace.cells import Cell
from pipelines.workspace.person import person

CHALLENGER = "challenger"
"""Alias of the version that was registered last and is not champion; also its verdict."""

VERDICT, REASONS = "clflow.verdict", "clflow.reasons"
COMPARED_WITH, REPLACED, TEST_HASH = "clflow.compared_with", "clflow.replaced", "clflow.test_hash"
FORCED = "clflow.forced"
ROLLED_BACK_BY, ROLLED_BACK_AT = "clflow.rolled_back_by", "clflow.rolled_back_at"
_EVIDENCE = "evidence"  # folder of the run's artifacts
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the model, the alias


class Registry:
    """The registry of one MLflow server."""

    def __init__(self, uri: str):
        self.uri = uri
        self.client = MlflowClient(uri, uri)

    def aliased(self, name: str, alias: str) -> ModelVersion | None:
        """The version with an alias, or None."""
        try:
            return self.client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise

    def versions_of_cell(self, name: str, key: str) -> list[ModelVersion]:
        """Versions of a cell's models, oldest first: one per training, or more if two processes registered at once."""
        found = self.client.search_model_versions(f"name = '{name}' and tags.`{CELL_KEY}` = '{key}'")
        return sorted(found, key=number)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, oldest first."""
        return sorted(self.client.search_model_versions(f"name = '{name}'"), key=number)

    def aliases(self, version: ModelVersion) -> list[str]:
        """Aliases of a version, sorted."""
        named = self.client.get_registered_model(version.name).aliases
        return sorted(alias for alias, of in named.items() if int(of) == number(version))

    def logged_model(self, experiment: str, evidence: Evidence) -> LoggedModel | None:
        """The logged model of the training run that wrote a cell's files, or None."""
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            return None
        run = Runs(self.client, found.experiment_id).of_record(evidence.cell.key, evidence.record)
        try:
            return self.client.get_logged_model(run.data.tags[MODEL]) if run and MODEL in run.data.tags else None
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise

    def model_folder(self, version: ModelVersion, into: Path) -> Path:
        """Download the files of a version ``into`` an empty folder."""
        return download(f"{SCHEME}{version.name}/{number(version)}", self.uri, into)

    def evidence(self, version: ModelVersion) -> Evidence:
        """Read the evidence of a version.

        Raises:
            PromotionError: its run holds no evidence, or it was changed.
        """
        with tempfile.TemporaryDirectory() as into:
            try:
                folder = self.client.download_artifacts(str(version.run_id), _EVIDENCE, into)
                return Evidence.read(Path(folder))
            except (PromotionError, MlflowException, OSError, KeyError, TypeError, ValueError) as error:
                raise PromotionError(
                    f"version {number(version)} of {version.name} at {self.uri} was not promoted by clflow: it has no "
                    f"valid {FILE} ({reason(error)}); delete the version or its alias."
                ) from None

    def register(self, name: str, model: LoggedModel, evidence: Evidence) -> ModelVersion:
        """Register the logged model of a cell as a new version, with the challenger's alias."""
        self._ensure_model(name)
        self.client.update_registered_model(name, _description(name, evidence.cell))
        # A database of MLflow's own looks the model up on the server of the process, whomever it is asked by.
        mlflow.set_tracking_uri(self.uri)
        tags = {CELL_KEY: evidence.cell.key, RECORD: evidence.record}
        version = self.client.create_model_version(
            name, model.model_uri, model.source_run_id, tags=tags, model_id=model.model_id
        )
        self.client.set_registered_model_alias(name, CHALLENGER, version.version)
        return version

    def log_evidence(self, run: str, evidence: Evidence) -> None:
        """Store evidence as artifacts of the model's run; replaces older evidence."""
        with tempfile.TemporaryDirectory() as folder:
            evidence.write(Path(folder))
            self.client.log_artifacts(run, folder, _EVIDENCE)

    def describe(self, version: ModelVersion, tags: dict[str, str], description: str) -> None:
        """Set tags and description of a version; a link to its run and the loading code are appended."""
        for key, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, key, value)
        run = self.client.get_run(str(version.run_id)).info
        uri = f"{SCHEME}{version.name}/{number(version)}"
        more = (
            f"[Run {run.run_name}](#/experiments/{run.experiment_id}/runs/{run.run_id}). Load it: "
            f'`clflow predict --model {uri} --out judged <images>`, or `mlflow.pyfunc.load_model("{uri}")`.'
        )
        self.client.update_model_version(version.name, version.version, f"{description}\n\n{more}")

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the exclusive lock of a registered model.

        Raises:
            PromotionError: another process holds it. It is never broken: only a person knows whether that one lives.
        """
        lock = f"{name}.lock"
        try:
            self.client.create_registered_model(lock, {"owner": f"{person()} pid {os.getpid()}", "since": now()})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            raise PromotionError(self._locked(name, lock)) from None
        try:
            yield
        finally:
            self.client.delete_registered_model(lock)

    def set_champion(
        self, version: ModelVersion, compared: ModelVersion | None, tags: dict[str, str], description: str
    ) -> None:
        """Make a version champion if the champion is still the one it was compared with.

        Raises:
            PromotionError: it is not, or somebody else is changing the champion now.
        """
        name = version.name
        with self.lock(name):
            champion = self.aliased(name, CHAMPION)
            if (champion and number(champion)) != (compared and number(compared)):
                happened = f"version {number(champion)} became" if champion else "the former version ceased to be"
                raise PromotionError(f"{happened} champion of {name} meanwhile; promote again.")
            # The alias last: it is what counts, and a champion without tags could not be rolled back.
            self.describe(version, tags, description)
            for tag in {ROLLED_BACK_BY, ROLLED_BACK_AT} & version.tags.keys():
                self.client.delete_model_version_tag(name, version.version, tag)
            self.client.set_registered_model_alias(name, CHAMPION, version.version)
            challenger = self.aliased(name, CHALLENGER)
            if challenger is not None and number(challenger) == number(version):
                self.client.delete_registered_model_alias(name, CHALLENGER)

    def roll_back(self, name: str) -> tuple[ModelVersion, ModelVersion]:
        """Roll back to the version that the champion replaced; returns the new champion and the demoted version.

        Raises:
            PromotionError: there is no champion, or nothing to go back to, or somebody else is changing the champion.
        """
        with self.lock(name):
            champion = self.aliased(name, CHAMPION)
            if champion is None:
                raise PromotionError(f"{name} has no champion in MLflow at {self.uri}; there is nothing to roll back.")
            previous = self._version(name, champion.tags.get(REPLACED))
            if previous is None or ROLLED_BACK_BY in previous.tags:
                raise PromotionError(
                    f"version {number(champion)} of {name} replaced no version that could be champion again; promote "
                    "another cell, or the one that was rolled back with --force."
                )
            for tag, value in ((ROLLED_BACK_BY, person()), (ROLLED_BACK_AT, now())):
                self.client.set_model_version_tag(name, champion.version, tag, value)
            self.client.set_registered_model_alias(name, CHAMPION, previous.version)
            return previous, champion

    def require_answer(self) -> None:
        """Check that the server answers.

        Raises:
            ClflowError: it does not.
        """
        try:
            self.client.search_registered_models(max_results=1)
        except Exception as error:  # MLflow, SQLAlchemy and requests each raise their own
            raise ClflowError(
                f"MLflow at {self.uri} does not work ({reason(error)}); start it or correct its URI."
            ) from None

    def _version(self, name: str, version: str | None) -> ModelVersion | None:
        """A version by its number, or None if it was deleted."""
        try:
            return self.client.get_model_version(name, version) if version else None
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise

    def _ensure_model(self, name: str) -> None:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _locked(self, name: str, lock: str) -> str:
        try:
            tags = self.client.get_registered_model(lock).tags
        except MlflowException:  # it was released just now
            tags = {}
        return (
            f"the champion of {name} is being changed by {tags.get('owner', 'somebody')} since "
            f"{tags.get('since', 'just now')}; promote again in a moment, and if that process is dead, delete the "
            f"registered model {lock} in MLflow first."
        )


def _description(name: str, cell: Cell) -> str:
    """Description of a registered model, with the commands that use it."""
    champion = f"{SCHEME}{name}@{CHAMPION}"
    return (
        f"Detectors of visual anomalies in images of {cell.category} (dataset {cell.dataset}). The alias {CHAMPION} "
        "marks the version in use; each version says what was measured, and why it is champion or not.\n\n"
        f"Use it: `clflow predict --model {champion} --out judged <images>`, `clflow serve --dataset {cell.dataset} "
        f'--category {cell.category}`, or `mlflow.pyfunc.load_model("{champion}")`. `clflow promote` and '
        "`clflow rollback` move the alias."
    )


def number(version: ModelVersion) -> int:
    """The number of a version; MLflow's database gives an int, its server a string."""
    return int(version.version)


def now() -> str:
    """The current time in the format of the registry's tags."""
    return datetime.now(UTC).isoformat(timespec="seconds")
