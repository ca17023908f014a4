"""A tiny workspace as the stages leave it, with its cells registered in MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from ruamel.yaml import YAML

from clflow.config.params import Params, load
from pipelines.registry.locate import CHAMPION, registered_name
from pipelines.tracking.server import tracking_uri
from pipelines.workspace.cells import Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import plan_cells
from tests import tiny


@dataclass(frozen=True)
class Trained:
    workspace: Workspace
    params: Params
    cells: list[Cell]

    @classmethod
    def of(cls, folder: Path) -> Trained:
        """From a finished workspace, whose limits of serving are lowered."""
        tree = YAML(typ="safe").load(Workspace(folder).params)
        tree["serving"] |= {"poll_seconds": 0.5, "body_mb": 1, "megapixels": 1}
        tiny.write_params(Workspace(folder).params, tree)
        made = cls.unregistered(folder)
        for category in tiny.CATEGORIES:
            made.client.create_registered_model(registered_name("folder", category))
            made.promote(category, made.register(category, made.logged_model(category)))
        return made

    @classmethod
    def unregistered(cls, folder: Path) -> Trained:
        """The same, but as it is, and without registered models."""
        workspace = Workspace(folder)
        params = load(workspace.params)
        return cls(workspace, params, [cell for cell in plan_cells(params, workspace) if cell.method == "clflow"])

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def uri(self) -> str:
        return tracking_uri(self.workspace)

    @property
    def images(self) -> Path:
        return self.workspace.data("folder")

    def cell(self, category: str) -> Cell:
        (found,) = (cell for cell in self.cells if cell.category == category)
        return found

    def folder(self, category: str) -> Path:
        return self.workspace.run(self.cell(category))

    def score_folder(self, category: str) -> Path:
        return self.workspace.score(self.cell(category))

    def scores(self, category: str) -> pd.DataFrame:
        """What the stage ``evaluate`` stored."""
        return pd.read_csv(self.score_folder(category) / "scores.csv")

    def register(self, category: str, source: str) -> int:
        """Make the model at ``source`` the next version of a category's."""
        return int(self.client.create_model_version(registered_name("folder", category), source).version)

    def promote(self, category: str, version: int) -> None:
        self.client.set_registered_model_alias(registered_name("folder", category), CHAMPION, str(version))

    def logged_model(self, category: str) -> str:
        """Where MLflow keeps the model of a category's cell."""
        experiment = self.client.get_experiment_by_name(self.params.tracking.experiment)
        assert experiment is not None
        place = [experiment.experiment_id]
        (run,) = self.client.search_runs(place, f"tags.`clflow.cell_key` = '{self.cell(category).key}'")
        mlflow.set_tracking_uri(self.uri)
        (model,) = mlflow.search_logged_models(place, f"source_run_id = '{run.info.run_id}'", output_format="list")
        return model.model_uri
