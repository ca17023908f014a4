"""``clflow promote``: register a cell's model, and make it champion of its category if it passes the gate.

A candidate is compared with the champion on the same test images. Nothing is overwritten: a replaced champion stays a
version, and `clflow rollback` restores it.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from clflow.config.params import Params
from clflow.errors import ClflowError, PromotionError
from pipelines.registry import candidate as candidates
from pipelines.registry import champions
from pipelines.registry.candidate import Candidate
from pipelines.registry.champions import CHALLENGER, Registry, number
from pipelines.registry.evidence import file_hashes
from pipelines.registry.gate import Comparison, Judgement, judge, on_held_out_images, score_again
from pipelines.registry.locate import CHAMPION, download, registered_name, require_database
from pipelines.registry.outcome import REFUSED, UNCHANGED, Outcome, write_table
from pipelines.tracking.runs import RECORD
from pipelines.tracking.server import reason, tracking_uri
from pipelines.tracking.tracker import Tracker
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import has_both_classes

_log = logging.getLogger(__name__)

_READMIT = (
    "to make it champion again, promote it with --force and --reason; to let it compete again, delete in MLflow the "
    f"tags {champions.ROLLED_BACK_BY} and {champions.ROLLED_BACK_AT} of it"
)


def run(
    params: Params,
    wanted: dict[str, tuple[str, ...]],
    workspace: Workspace,
    source: str | None,
    dry_run: bool,
    forced: str | None = None,
) -> None:
    """Promote candidates, print a line for each, and write reports/promotion-<dataset>.csv.

    Args:
        params: of the workspace.
        wanted: categories by dataset.
        workspace: whose cells are promoted, and whose MLflow server has the registry.
        source: MLflow server from whose registry the champions are copied, instead of promoting cells.
        dry_run: only print what would be.
        forced: why they are to become champions, whatever the judgement says and also after a rollback; what does not
            match its evidence is refused still. None if they are not forced.

    Raises:
        PromotionError: categories were refused; the others are done.
        ClflowError: an MLflow server does not answer.
    """
    if source is not None:
        require_database(source)
    target, origin = Registry(tracking_uri(workspace)), Registry(source) if source is not None else None
    for server in (target, origin):
        if server is not None:
            server.require_answer()
    promoter = Promoter(params, workspace, target, origin, dry_run, forced)
    refused = []
    for dataset, categories in wanted.items():
        outcomes = []
        for category in categories:
            outcomes.append(promoter.promote(dataset, category))
            print(outcomes[-1].sentence(), flush=True)
        refused += [f"{dataset}/{outcome.category}" for outcome in outcomes if outcome.verdict == REFUSED]
        if not dry_run:
            write_table(workspace.promotion_table(dataset), outcomes)
    if refused:
        raise PromotionError(f"refused: {', '.join(refused)}; the reasons are above, everything else is done.")


def rollback(dataset: str, category: str, workspace: Workspace) -> None:
    """Restore the champion of a category that the present one replaced.

    Raises:
        PromotionError: there is no champion, or nothing to go back to, or somebody else is changing it.
        ClflowError: the MLflow server does not answer.
    """
    uri = tracking_uri(workspace)
    require_database(uri)
    target = Registry(uri)
    target.require_answer()
    champion, demoted = target.roll_back(registered_name(dataset, category))
    _log.info(
        "%s/%s: version %d is champion again, not version %d", dataset, category, number(champion), number(demoted)
    )


@dataclass(frozen=True)
class Promoter:
    """Promotes one category after the other, from a workspace or a registry ``source`` to the registry ``target``."""

    params: Params
    workspace: Workspace
    target: Registry
    source: Registry | None
    dry_run: bool
    forced: str | None

    def promote(self, dataset: str, category: str) -> Outcome:
        """Promote one category; an error becomes the reason of a refusal, so that it stops no other."""
        try:
            with tempfile.TemporaryDirectory() as scratch:
                return self._promote(dataset, category, Path(scratch))
        except ClflowError as error:
            why = str(error)
        except MlflowException as error:
            why = f"MLflow failed ({reason(error)}); promote again."
        return Outcome(dataset, category, REFUSED, (why,))

    def _promote(self, dataset: str, category: str, scratch: Path) -> Outcome:
        if self.source is None:
            candidate = candidates.from_workspace(self.params, dataset, category, self.workspace)
        else:
            candidate = candidates.from_registry(self.params, dataset, category, self.source, scratch)
        evidence, name = candidate.evidence, registered_name(dataset, category)
        model = self._logged(candidate, scratch)
        champion = self.target.aliased(name, CHAMPION)
        known = self.target.versions_of_cell(name, evidence.cell.key)
        if champion is not None and _is_of(champion, evidence.record):
            return Outcome(dataset, category, UNCHANGED, ("it is champion already",), number(champion), evidence)
        rolled_back = _rolled_back(known)
        if rolled_back is not None and self.forced is None:
            version, why = rolled_back
            return Outcome(dataset, category, UNCHANGED, (f"{why}; {_READMIT}",), number(version), evidence)

        judgement = self._judge(candidate, champion, scratch, (rolled_back[1],) if rolled_back else ())
        verdict = CHAMPION if judgement.wins else CHALLENGER
        outcome = Outcome(dataset, category, verdict, judgement.reasons, None, evidence, judgement)
        same = [version for version in known if _is_of(version, evidence.record)]
        version = same[-1] if same else None
        if version is not None:
            outcome = replace(outcome, version=number(version))
            tags = outcome.tags(candidate.origin, champion and number(champion))
            if verdict == CHALLENGER and _same(version.tags, tags):
                return replace(outcome, verdict=UNCHANGED)
        if self.dry_run:
            return outcome
        assert model is not None and model.source_run_id is not None, "a model that was logged has a run"
        self.target.log_evidence(model.source_run_id, evidence)
        if version is None:
            version = self.target.register(name, model, evidence)
        self._record(version, champion, outcome, candidate.origin)
        return replace(outcome, version=number(version))

    def _logged(self, candidate: Candidate, scratch: Path) -> LoggedModel | None:
        """The candidate's logged model in the target's MLflow, logged now if necessary; None only in a dry run.

        Raises:
            PromotionError: it is not the candidate, or was deleted.
            ClflowError: MLflow does not answer.
        """
        cell = candidate.evidence.cell
        if not self.dry_run:
            tracker = Tracker.connect(self.params, self.workspace)
            tracker.sync([cell], candidate.workspace)
            tracker.require()
        model = self.target.logged_model(self.params.tracking.experiment, candidate.evidence)
        if model is not None:
            folder = download(model.model_uri, self.target.uri, scratch / "logged")
            candidate.evidence.require_files(file_hashes(folder), f"in MLflow at {self.target.uri}")
        elif not self.dry_run:
            raise PromotionError(
                f"the model of cell {cell.name} was deleted in MLflow at {self.target.uri}; delete its run too and "
                "promote again."
            )
        return model

    def _judge(
        self, candidate: Candidate, champion: ModelVersion | None, scratch: Path, problems: tuple[str, ...]
    ) -> Judgement:
        """Judge it, and compare it with the champion if there is one; problems speak against it if it is forced.

        Raises:
            PromotionError: see `_comparison`; if it is forced, that is a problem, too.
        """
        comparison = None
        if champion is not None:
            try:
                comparison = self._comparison(candidate, champion, scratch)
            except PromotionError as error:
                if self.forced is None:
                    raise
                problems = (*problems, str(error))
        judgement = judge(candidate.evidence, candidate.folder, comparison, self.params.promotion)
        return judgement if self.forced is None else judgement.overruled(self.forced, problems)

    def _comparison(self, candidate: Candidate, champion: ModelVersion, scratch: Path) -> Comparison:
        """Compare with the champion's stored scores; if they are of other images, with its scores of these; and without
        normal or defective test images, by the held-out images that both were validated on.

        Raises:
            PromotionError: the scores are of other images, and the images of the candidate's are not here, or both were
                validated on different ones.
        """
        evidence, rival = candidate.evidence, self.target.evidence(champion)
        if not has_both_classes(evidence.scores):
            comparison = on_held_out_images(candidate.folder, self.target.model_folder(champion, scratch / "champion"))
            if comparison is None:
                raise PromotionError(
                    f"it cannot be compared with the champion, version {number(champion)}: it has {evidence.missing}, "
                    "and the two were validated on different images; add test images, normal and defective, or delete "
                    f"the alias {CHAMPION} of {champion.name} in MLflow, so that floors and ceilings alone decide."
                )
            return comparison
        if rival.test_hash == evidence.test_hash:
            return Comparison("image AUROC", evidence.scores, rival.scores)
        if candidate.images is None:
            raise PromotionError(
                f"the champion, version {number(champion)}, was measured on other test images than the model that is "
                "to replace it; measure both on the same images and promote again."
            )
        folder = self.target.model_folder(champion, scratch / "champion")
        scores = score_again(folder, evidence.scores, candidate.images)
        note = f"version {number(champion)} was measured on other test images and scored again on the present ones"
        return Comparison("image AUROC", evidence.scores, scores, note)

    def _record(self, version: ModelVersion, champion: ModelVersion | None, outcome: Outcome, origin: str) -> None:
        """Write the verdict to the registry.

        Raises:
            PromotionError: it should have become champion, but somebody else was first; it stays challenger.
        """
        compared = champion and number(champion)
        if outcome.verdict == CHALLENGER:
            self.target.describe(version, outcome.tags(origin, compared), outcome.description())
            return
        replaced = {champions.REPLACED: str(compared or "")}
        try:
            self.target.set_champion(
                version, champion, outcome.tags(origin, compared) | replaced, outcome.description()
            )
        except PromotionError as error:
            lost = replace(outcome, verdict=CHALLENGER, reasons=(str(error),))
            self.target.describe(version, lost.tags(origin, compared), lost.description())
            raise


def _rolled_back(known: list[ModelVersion]) -> tuple[ModelVersion, str] | None:
    """The first version of a cell that was rolled back, and by whom; trained again, it is not promoted by itself."""
    for version in known:
        if champions.ROLLED_BACK_BY in version.tags:
            by, at = version.tags[champions.ROLLED_BACK_BY], version.tags[champions.ROLLED_BACK_AT]
            return version, f"it was rolled back by {by} at {at}"
    return None


def _is_of(version: ModelVersion, record: str) -> bool:
    """Whether a version holds the model of one training of its cell."""
    return version.tags.get(RECORD) == record


def _same(before: dict[str, str], now: dict[str, str]) -> bool:
    """Whether the verdict is unchanged, on the same images and against the same champion."""
    grounds = (champions.VERDICT, champions.REASONS, champions.COMPARED_WITH, champions.TEST_HASH)
    return all(before.get(tag) == now[tag] for tag in grounds)
