"""Candidates for promotion: a cell of this workspace, or the champion of another registry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from clflow.config.params import Params
from clflow.errors import PromotionError
from pipelines.registry.champions import FORCED, Registry, number
from pipelines.registry.evidence import Evidence, file_hashes, of_workspace
from pipelines.registry.locate import CHAMPION, registered_name
from pipelines.workspace import cells
from pipelines.workspace.paths import Workspace


@dataclass(frozen=True)
class Candidate:
    """A trained model that may be promoted.

    Attributes:
        evidence: its measurements and provenance.
        workspace: contains its files, below ``runs``.
        origin: its source, for messages.
        images: folder of the scored test images; None if they are not on this machine.
    """

    evidence: Evidence
    workspace: Workspace
    origin: str
    images: Path | None

    @property
    def folder(self) -> Path:
        cell = self.evidence.cell
        return self.workspace.run(cell)


def from_workspace(params: Params, dataset: str, category: str, workspace: Workspace) -> Candidate:
    """The candidate of a category: the cell that ``promotion`` names.

    Raises:
        PromotionError, DataError: see `pipelines.registry.evidence.of_workspace`.
    """
    evidence = of_workspace(params, dataset, category, workspace)
    return Candidate(evidence, workspace, "workspace", workspace.data(dataset))


def from_registry(params: Params, dataset: str, category: str, source: Registry, into: Path) -> Candidate:
    """The champion of another registry, downloaded ``into`` an empty folder.

    Raises:
        PromotionError: there is none, or it does not match its evidence or the protocol.
        ClflowError: its files are unavailable.
    """
    version = source.aliased(registered_name(dataset, category), CHAMPION)
    if version is None:
        raise PromotionError(f"it has no champion in MLflow at {source.uri}; promote it there first.")
    evidence = source.evidence(version)
    cell = evidence.cell
    evidence.require_protocol(params)
    folder = source.model_folder(version, into / "download")
    evidence.require_files(file_hashes(folder), f"in MLflow at {source.uri}")
    if (cell.dataset, cell.category) != (dataset, category) or not cells.is_complete(folder, cell.key):
        raise PromotionError(f"version {number(version)} in MLflow at {source.uri} is no such cell; promote it again.")
    origin = f"version {number(version)} at {_without_password(source.uri)}"
    if version.tags.get(FORCED):
        origin += f", forced there: {version.tags[FORCED]}"
    candidate = Candidate(evidence, Workspace(into), origin, None)
    candidate.folder.parent.mkdir(parents=True)
    folder.rename(candidate.folder)
    return candidate


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)
