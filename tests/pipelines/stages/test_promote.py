"""Promotion with the real MLflow: its own database, and its server over HTTP."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.entities.model_registry import ModelVersion
from PIL import Image
from sklearn.metrics import roc_auc_score

from clflow.calibration import Thresholds
from clflow.config.params import Params, load
from clflow.data.images import read_image
from clflow.data.manifest import category_rows, data_hash, read_manifest
from clflow.errors import ClflowError, PromotionError
from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid
from clflow.features.weights import find_weights
from clflow.files import fingerprint, read_json, write_json
from clflow.methods.loading import load_detector
from clflow.methods.registry import find_method
from clflow.model.detector import WEIGHTS_FILE, Detector
from pipelines.registry.champions import CHALLENGER, FORCED, Registry, number
from pipelines.registry.evidence import file_hashes, of_workspace
from pipelines.registry.locate import CHAMPION, registered_name
from pipelines.stages import fetch, promote
from pipelines.stages.aggregate import aggregate
from pipelines.tracking.tracker import Tracker
from pipelines.workspace.cells import MARKER, SCORED, Cell
from pipelines.workspace.keys import training_inputs
from pipelines.workspace.paths import Workspace
from tests import tiny
from tests.mlflow_server import mlflow_server
from tests.pipelines.command import refusal

CLFLOW = str(Path(sys.executable).with_name("clflow"))
DISC = registered_name("folder", "disc")
OTHER_WEIGHTS = rf"{WEIGHTS_FILE} of cell .* is not the same"


@dataclass
class Bench:
    """A workspace of the tiny dataset. Its detectors are untrained and its scores made up: neither matters here."""

    workspace: Workspace
    source: Path
    grid: FeatureGrid
    params: Params

    def configure(self, **changes: Any) -> None:
        """Change parameters; no floor but zero, no ceiling and no limit of the latency unless they are given."""
        rules = {"floors": {"image_auroc": 0.0}, "ceilings": {}, "latency_ms": 1e6}  # a machine may have other work
        changes = {**{f"promotion__{name}": value for name, value in rules.items()}, **changes}
        tree = tiny.params_tree(self.source, **changes)
        self.params = load(tiny.write_params(self.workspace.params, tree))

    @property
    def manifest(self) -> pd.DataFrame:
        return read_manifest(self.workspace.data("folder"))

    def cell(self, seed: int, category: str = "disc") -> Cell:
        return Cell("folder", category, "clflow", seed, fingerprint([category, seed]), tiny.TRAIN)

    def add(
        self, seed: int, right: bool, category: str = "disc", seconds: float = 1.5, synthetic: str = "89ab"
    ) -> Cell:
        """A cell whose scores put every defect above every normal image, or every one below, of the test images and the
        held-out ones; each training of one takes another time, and learns from these synthetic anomalies."""
        cell = self.cell(seed, category)
        self._train(cell, right, seconds, synthetic)
        self._evaluate(cell, right)
        # One category at a time, for which no processes are started.
        folders = sorted(self.workspace.runs("folder").glob(f"{category}-*"))
        seeds = [read_json(folder / MARKER)["seed"] for folder in folders]
        aggregate([self.cell(seed, category) for seed in seeds], self.params, self.workspace)
        return cell

    def promote(
        self, *categories: str, source: str | None = None, dry_run: bool = False, forced: str | None = None
    ) -> None:
        promote.run(self.params, {"folder": categories or ("disc",)}, self.workspace, source, dry_run, forced)

    def rows(self) -> dict[str, dict[str, str]]:
        """What was reported, by category."""
        table = pd.read_csv(self.workspace.promotion_table("folder"), dtype=str, keep_default_na=False)
        return {row["category"]: row for row in table.to_dict("records")}

    @property
    def registry(self) -> Registry:
        return Registry(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.workspace.mlflow_database}")

    def _train(self, cell: Cell, right: bool, seconds: float, synthetic: str) -> None:
        folder = self.workspace.run(cell)
        folder.mkdir(parents=True)
        model = self.params.model
        scorer = find_method(cell.method).scorer(self.grid, model, tiny.SIZE, cell.seed)
        limits = Thresholds(1.0, 2.0, 0.5, (0.5,))
        Detector(cell.method, self.grid, scorer, model, cell.seed, tiny.SIZE, limits).save(folder)
        history = {"step": [4, 8], "loss": [2.0, 1.0], "validation_auroc": [0.95, 0.9]}
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
        held_out = pd.DataFrame({"label": [0, 1], "image_score": [0.0, 1.0 if right else -1.0]})
        held_out.to_csv(folder / "held_out.csv", index=False)
        data = data_hash(category_rows(self.manifest, cell.category, "train"))
        record = {
            **asdict(cell),
            **{"commit": "0123456789abcdef", "data_hash": data, "synthetic_hash": synthetic, "tuned": False},
            "protocol": self.params.protocol.model_dump(mode="json"),
            "inputs": training_inputs(self.params, cell.method, data, synthetic),
            **{"train_seconds": seconds, "params_added": 123, "device": "cpu AVX2", "arithmetic": "float32"},
            **{"image_threshold": 1.0, "pixel_threshold": 2.0, "median_pixel_score": 0.5},
            **{"calibration_images": 1, "expected_false_alarm_rate": 0.5},
        }
        write_json(folder / MARKER, record)

    def _evaluate(self, cell: Cell, right: bool) -> None:
        folder = self.workspace.score(cell)
        folder.mkdir(parents=True)
        rows = category_rows(self.manifest, cell.category, "test")
        sign = 1 if right else -1
        table = rows.loc[:, ["path", "label", "defect", "mask"]].assign(
            image_score=sign * rows["label"] + 0.01 * np.arange(len(rows))
        )
        table.to_csv(folder / "scores.csv", index=False)
        np.save(folder / "maps.npy", np.random.default_rng(cell.seed).random((len(rows), 8, 8), np.float32))
        record = {"key": cell.key, "score_key": "cdef", "inference_ms": 1.0, "test_hash": data_hash(rows)}
        write_json(folder / SCORED, record)


@pytest.fixture(scope="module")
def grid() -> FeatureGrid:
    return FeatureGrid(Backbone(find_weights("tf_efficientnet_lite0", "offline"), (4, 8, 16)), grid=8, pool=1)


@pytest.fixture(scope="module")
def server(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server with artifacts of its own."""
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(f"sqlite:///{shutil.copy(database, folder)}", folder) as uri:
        yield uri


@pytest.fixture
def served(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The server's registry, which is the workspaces' from now on; emptied afterwards."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    registry = Registry(server)
    yield registry
    for model in registry.client.search_registered_models():
        registry.client.delete_registered_model(model.name)


@pytest.fixture(scope="module")
def fetched(tiny_source: Path, database: Path, grid: FeatureGrid, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    workspace = Workspace(tmp_path_factory.mktemp("fetched"))
    shutil.copy(database, workspace.mlflow_database)
    params = load(tiny.write_params(workspace.params, tiny.params_tree(tiny_source)))
    fetch.run(params, "folder", workspace)
    return Bench(workspace, tiny_source, grid, params)


@pytest.fixture
def bench(fetched: Bench, tmp_path: Path) -> Bench:
    """A workspace with images only."""
    return copied(fetched, tmp_path / "workspace")


def copied(bench: Bench, folder: Path) -> Bench:
    copy = Bench(Workspace(shutil.copytree(bench.workspace.root, folder)), bench.source, bench.grid, bench.params)
    copy.configure()
    return copy


def version_of(registry: Registry, alias: str) -> int | None:
    version = registry.aliased(DISC, alias)
    return number(version) if version else None


def snapshot(registry: Registry) -> list[Any]:
    """All that the registry says."""
    models = registry.client.search_registered_models()
    versions = registry.client.search_model_versions()
    return [[dict(model) for model in models], [dict(version) for version in versions]]


def get_version(registry: Registry, version: str) -> ModelVersion:
    return registry.client.get_model_version(DISC, version)


def test_first_model_with_floors_met_becomes_champion_with_its_evidence(bench: Bench, capsys):
    cell = bench.add(0, right=True)
    bench.configure(promotion__floors={"image_auroc": 0.9, "image_ap": 0.9})
    bench.promote()
    champion = bench.registry.aliased(DISC, CHAMPION)
    assert champion is not None and number(champion) == 1
    assert version_of(bench.registry, CHALLENGER) is None
    assert "folder/disc: champion (version 1) - there was no champion" in capsys.readouterr().out
    tags = champion.tags
    assert tags["clflow.verdict"] == "champion"
    assert tags["clflow.cell_key"] == cell.key
    assert tags["clflow.commit"] == "0123456789abcdef"
    assert tags["clflow.data_hash"] == data_hash(category_rows(bench.manifest, "disc", "train"))
    assert tags["clflow.test_hash"] == data_hash(category_rows(bench.manifest, "disc", "test"))
    assert tags["clflow.protocol_hash"] == fingerprint(bench.params.protocol.model_dump(mode="json"))
    assert json.loads(tags["clflow.metrics"])["image_auroc"] == 1
    assert float(tags["clflow.latency_ms"]) > 0
    assert tags["clflow.compared_with"] == "none"
    assert tags["clflow.promoted_by"] and tags["clflow.promoted_at"]
    assert champion.description is not None
    for words in (
        f"folder/disc, cell {cell.name} of commit 0123456789ab: image AUROC 1.0000, false alarms 0.0 % (95 %",
        "It is champion, because there was no champion. Its threshold keeps a false alarm rate of 50.00% on images",
        f"/runs/{champion.run_id}). Load it: `clflow predict --model models:/{DISC}/1 ",
    ):
        assert words in champion.description
    described = bench.registry.client.get_registered_model(DISC).description
    assert described and "images of disc (dataset folder)" in described and f"models:/{DISC}@champion" in described
    evidence = bench.registry.evidence(champion)
    stored = pd.read_csv(bench.workspace.score(cell) / "scores.csv")
    pd.testing.assert_frame_equal(evidence.scores, stored.drop(columns=["defect", "mask"]))
    row = bench.rows()["disc"]
    assert (row["version"], row["verdict"], row["image_auroc"], row["gain"]) == ("1", "champion", "1.0", "")


def test_missed_floors_and_latency_make_a_challenger_with_the_reasons(bench: Bench):
    bench.add(0, right=False)
    bench.configure(promotion__floors={"image_auroc": 0.9, "image_f1max": 0.5}, promotion__latency_ms=0.001)
    bench.promote()
    assert version_of(bench.registry, CHAMPION) is None
    assert version_of(bench.registry, CHALLENGER) == 1
    reasons = get_version(bench.registry, "1").tags["clflow.reasons"]
    assert "image_auroc 0.0000 is below 0.9" in reasons and "is above 0.001 ms" in reasons
    assert "image_f1max" not in reasons
    assert bench.rows()["disc"]["verdict"] == "challenger"


def test_verdicts_that_are_wrong_too_often_make_a_challenger(bench: Bench):
    bench.add(0, right=False)  # no score is above the threshold, 1
    bench.configure(promotion__ceilings={"false_alarms": 0.0, "misses": 0.5})
    bench.promote()
    interval = [(0.025 ** (1 / tiny.TEST)), 1.0]
    expected = f"misses 1.0000 (95 % interval {interval[0]:.4f} to {interval[1]:.4f}) is above 0.5"
    assert bench.rows()["disc"]["reasons"] == expected
    version = get_version(bench.registry, "1")
    metrics = json.loads(version.tags["clflow.metrics"])
    assert [metrics[name] for name in ("misses", "misses_lower", "misses_upper")] == pytest.approx([1, *interval])
    assert version.description is not None
    assert "false alarms 0.0 % (95 % interval 0.0 to 60.2 %), misses 100.0 % (95 % interval 39.8" in version.description
    assert float(bench.rows()["disc"]["misses"]) == 1

    bench.add(1, right=True)  # judges all correctly, but four images do not prove much
    bench.configure(promotion__seed=1, promotion__ceilings={"misses_upper": 0.5})
    bench.promote()
    assert "misses_upper 0.6024 (95 % interval 0.0000 to 0.6024) is above 0.5" in bench.rows()["disc"]["reasons"]


def test_metric_that_does_not_exist_reaches_no_floor(bench: Bench, tmp_path: Path):
    unmasked = Path(shutil.copytree(bench.source, tmp_path / "unmasked"))
    for category in tiny.CATEGORIES:
        shutil.rmtree(unmasked / category / "ground_truth")
    bench.source = unmasked
    bench.configure(promotion__floors={"pixel_auroc": 0.0})
    fetch.run(bench.params, "folder", bench.workspace)
    bench.add(0, right=True)
    bench.promote()
    assert bench.rows()["disc"]["reasons"] == "pixel_auroc does not exist (no masks), but must be at least 0"


def test_the_same_cell_again_changes_nothing(bench: Bench):
    bench.add(0, right=True)
    bench.promote()
    before = snapshot(bench.registry)
    bench.promote()
    assert snapshot(bench.registry) == before
    row = bench.rows()["disc"]
    assert (row["version"], row["verdict"], row["reasons"]) == ("1", "unchanged", "it is champion already")


def test_only_a_better_cell_replaces_the_champion_and_a_tie_does_not(bench: Bench):
    for seed, right in enumerate((False, True, True, False)):
        bench.add(seed, right)
    bench.promote()
    expected = {1: ("2", "champion", 1.0), 2: ("3", "challenger", 0.0), 3: ("4", "challenger", -1.0)}
    for seed, (version, verdict, gain) in expected.items():
        bench.configure(promotion__seed=seed)
        bench.promote()
        row = bench.rows()["disc"]
        assert (row["version"], row["verdict"]) == (version, verdict)
        assert [float(row[name]) for name in ("gain", "lower", "upper")] == [gain] * 3
        assert version_of(bench.registry, CHAMPION) == 2
    tags = get_version(bench.registry, "2").tags
    assert (tags["clflow.compared_with"], tags["clflow.replaced"]) == ("1", "1")
    assert json.loads(tags["clflow.gain"]) == {"mean": 1, "lower": 1, "upper": 1, "p": 0}
    assert version_of(bench.registry, CHALLENGER) == 4

    before = snapshot(bench.registry)
    bench.promote()
    assert bench.rows()["disc"]["verdict"] == "unchanged"
    assert snapshot(bench.registry) == before

    bench.configure(promotion__seed=2, promotion__margin=-0.1)  # what was judged by other rules is judged again
    bench.promote()
    assert version_of(bench.registry, CHAMPION) == 3


def test_rollback_brings_back_what_was_replaced_and_keeps_it(bench: Bench):
    with pytest.raises(PromotionError, match="has no champion"):
        promote.rollback("folder", "disc", bench.workspace)
    bench.add(0, right=False)
    bench.add(1, right=True)
    bench.promote()
    bench.configure(promotion__seed=1)
    bench.promote()
    promote.rollback("folder", "disc", bench.workspace)
    assert version_of(bench.registry, CHAMPION) == 1
    tags = get_version(bench.registry, "2").tags
    assert tags["clflow.rolled_back_by"] and tags["clflow.rolled_back_at"]
    bench.promote()
    assert version_of(bench.registry, CHAMPION) == 1
    row = bench.rows()["disc"]
    assert (row["version"], row["verdict"]) == ("2", "unchanged") and "rolled back by" in row["reasons"]
    assert "delete in MLflow the tags clflow.rolled_back_by and clflow.rolled_back_at of it" in row["reasons"]
    assert "to make it champion again, promote it with --force and --reason" in row["reasons"]
    with pytest.raises(PromotionError, match="replaced no version"):
        promote.rollback("folder", "disc", bench.workspace)
    assert version_of(bench.registry, CHAMPION) == 1

    bench.promote(forced="the camera was at fault")
    tags = get_version(bench.registry, "2").tags
    assert version_of(bench.registry, CHAMPION) == 2
    assert tags["clflow.forced"] == "the camera was at fault"
    assert tags["clflow.reasons"].startswith("forced: the camera was at fault; despite: it was rolled back by ")
    assert not [tag for tag in tags if tag.startswith("clflow.rolled_back")]
    promote.rollback("folder", "disc", bench.workspace)  # it is like any other champion
    assert version_of(bench.registry, CHAMPION) == 1


def test_who_forces_a_promotion_says_why(bench: Bench):
    bench.add(0, right=True)
    bench.add(1, right=False)
    bench.promote()
    bench.configure(promotion__seed=1, promotion__floors={"image_auroc": 0.5})
    before = snapshot(bench.registry)
    bench.promote(forced="a trial on line 3", dry_run=True)
    assert snapshot(bench.registry) == before
    bench.promote(forced="a trial on line 3")
    row, champion = bench.rows()["disc"], bench.registry.aliased(DISC, CHAMPION)
    assert champion is not None and champion.description is not None
    assert (row["version"], row["verdict"], champion.tags["clflow.forced"]) == ("2", "champion", "a trial on line 3")
    reasons = "forced: a trial on line 3; despite: image_auroc 0.0000 is below 0.5; despite: gain in image AUROC -1"
    assert row["reasons"].startswith(reasons) and reasons in champion.description
    assert get_version(bench.registry, "1").tags["clflow.forced"] == ""
    change_score(bench, bench.cell(1))
    bench.registry.client.delete_registered_model_alias(DISC, CHAMPION)
    with pytest.raises(PromotionError, match="refused: folder/disc"):  # what does not match is forced by nobody
        bench.promote(forced="a trial on line 3")


def change_image(bench: Bench, cell: Cell, split: str) -> None:
    """The images change after the cell was trained and scored."""
    source = Path(shutil.copytree(bench.source, bench.workspace.root / "changed"))
    image = next((source / "disc" / split / "good").iterdir())
    Image.fromarray(255 - read_image(image)).save(image)
    bench.source = source
    bench.configure()
    fetch.run(bench.params, "folder", bench.workspace)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change_score(bench: Bench, cell: Cell) -> None:
    edit(bench.workspace.score(cell) / "scores.csv", ",0.0", ",9.0")


def log_and_flip_a_bit(bench: Bench, cell: Cell, where: Path) -> None:
    """The model's weights change after it was brought to MLflow, in the workspace or there."""
    bench.promote()
    bench.registry.client.delete_registered_model(DISC)
    (path,) = where.rglob(f"*{cell.name}*/{WEIGHTS_FILE}")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda bench, cell: change_image(bench, cell, "train"), r"other images than the manifest.*train it again"),
        (lambda bench, cell: change_image(bench, cell, "test"), r"other test images.*evaluate it again"),
        (lambda bench, cell: bench.configure(protocol__image_size=96), r"protocol\.image_size 64.*says 96"),
        (lambda bench, cell: bench.configure(protocol__map_size=32), r"another protocol.*aggregate again"),
        (lambda bench, cell: bench.configure(promotion__seed=7), r"no cell of method 'clflow' and seed 7"),
        (lambda bench, cell: (bench.workspace.score(cell) / SCORED).unlink(), r"not trained and scored"),
        (change_score, r"other scores.*aggregate again"),
        (lambda bench, cell: log_and_flip_a_bit(bench, cell, bench.workspace.runs("folder")), OTHER_WEIGHTS),
        (lambda bench, cell: log_and_flip_a_bit(bench, cell, bench.workspace.mlflow_artifacts), OTHER_WEIGHTS),
    ],
    ids=["train", "test", "training protocol", "metrics protocol", "seed", "unscored", "scores", "file", "logged file"],
)
def test_what_does_not_match_is_refused_with_the_reason(bench: Bench, spoil, reason: str, capsys):
    cell = bench.add(0, right=True)
    spoil(bench, cell)
    with pytest.raises(PromotionError, match="refused: folder/disc"):
        bench.promote()
    assert bench.registry.client.search_registered_models() == []
    assert bench.rows()["disc"]["verdict"] == "refused"
    assert re.search(reason, bench.rows()["disc"]["reasons"])
    assert bench.rows()["disc"]["reasons"] in capsys.readouterr().out


def test_refused_category_stops_no_other_and_rows_of_others_stay(bench: Bench):
    bench.add(0, right=True)
    with pytest.raises(PromotionError, match="refused: folder/stripes;"):
        bench.promote("stripes", "disc")
    assert version_of(bench.registry, CHAMPION) == 1
    bench.add(0, right=True, category="stripes")
    bench.promote("stripes")
    assert {category: row["verdict"] for category, row in bench.rows().items()} == {
        "disc": "champion",
        "stripes": "champion",
    }


def test_dry_run_tells_the_verdict_and_changes_nothing(bench: Bench, capsys):
    bench.add(0, right=False)
    bench.promote(dry_run=True)
    assert "folder/disc: champion - there was no champion" in capsys.readouterr().out
    assert bench.registry.client.search_registered_models() == []
    assert bench.registry.client.get_experiment_by_name(bench.params.tracking.experiment) is None
    bench.promote()
    bench.add(1, right=True)
    bench.configure(promotion__seed=1)
    before, rows = snapshot(bench.registry), bench.rows()
    bench.promote(dry_run=True)
    assert "folder/disc: champion - gain in image AUROC +1.0000" in capsys.readouterr().out
    assert snapshot(bench.registry) == before
    assert bench.rows() == rows


def test_champion_of_other_test_images_is_scored_again(bench: Bench):
    bench.add(0, right=True)
    bench.promote()
    change_image(bench, bench.cell(0), "test")
    bench.add(1, right=True)
    bench.configure(promotion__seed=1)
    bench.promote()
    row = bench.rows()["disc"]
    assert "version 1 was measured on other test images and scored again" in row["reasons"]
    champion = load_detector(bench.workspace.run(bench.cell(0)), [bench.grid])
    test = category_rows(bench.manifest, "disc", "test")
    scores = [score_one(champion, bench.workspace.data("folder") / path) for path in test["path"]]
    # An untrained flow separates the classes somehow, but not always wrongly as its made-up scores would say.
    assert float(row["gain"]) == pytest.approx(1 - roc_auc_score(test["label"], scores), abs=0.03)


def score_one(detector: Detector, path: Path) -> float:
    return float(detector(torch.from_numpy(read_image(path, tiny.SIZE))[None])[1])


def test_while_the_champion_is_being_changed_another_is_told_by_whom(bench: Bench):
    bench.add(0, right=True)
    with bench.registry.lock(DISC), pytest.raises(PromotionError, match="refused"):
        bench.promote()
    reason = bench.rows()["disc"]["reasons"]
    assert f"pid {os.getpid()} since 20" in reason and f"delete the registered model {DISC}.lock" in reason
    assert version_of(bench.registry, CHAMPION) is None
    assert version_of(bench.registry, CHALLENGER) == 1
    assert get_version(bench.registry, "1").tags["clflow.verdict"] == "challenger"
    bench.promote()
    assert version_of(bench.registry, CHAMPION) == 1
    assert version_of(bench.registry, CHALLENGER) is None
    assert {model.name for model in bench.registry.client.search_registered_models()} == {DISC}


@pytest.mark.parametrize("over_http", [False, True], ids=["sqlite", "http"])
def test_of_many_who_compared_with_the_same_champion_one_wins(
    bench: Bench, over_http: bool, request: pytest.FixtureRequest
):
    if over_http:
        request.getfixturevalue("served")
    registry = bench.registry
    bench.add(0, right=True)
    bench.promote()
    compared = registry.aliased(DISC, CHAMPION)
    evidence = of_workspace(bench.params, "folder", "disc", bench.workspace)
    model = registry.logged_model(bench.params.tracking.experiment, evidence)
    assert compared is not None and model is not None
    versions = [registry.register(DISC, model, evidence) for _ in range(6)]
    barrier = Barrier(len(versions))

    def set_champion(version: ModelVersion) -> str:
        barrier.wait()
        try:
            Registry(registry.uri).set_champion(version, compared, {}, "")
        except PromotionError as error:
            return str(error)
        return "won"

    with ThreadPoolExecutor(len(versions)) as pool:
        results = list(pool.map(set_champion, versions))
    assert results.count("won") == 1
    winner = number(versions[results.index("won")])
    assert version_of(registry, CHAMPION) == winner
    told = (f"version {winner} became champion", "is being changed by")
    assert all(any(words in result for words in told) for result in results if result != "won")
    with pytest.raises(PromotionError, match=f"version {winner} became champion of {DISC} meanwhile; promote again"):
        registry.set_champion(compared, compared, {}, "")


def test_two_processes_that_promote_at_once_cannot_both_win_silently(bench: Bench, served: Registry, tmp_path: Path):
    others = copied(bench, tmp_path / "others")
    for seed, one in enumerate((bench, others)):
        one.add(seed, right=True)
        one.configure(promotion__seed=seed)
    command = [CLFLOW, "promote", "--dataset", "folder", "--category", "disc"]
    processes = [
        subprocess.Popen(command, cwd=one.workspace.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for one in (bench, others)
    ]
    said = [process.communicate()[0] for process in processes]
    champion = served.aliased(DISC, CHAMPION)
    assert champion is not None, said
    won = [f"champion (version {number(champion)})" in text for text in said]
    assert sum(won) == 1, said
    winner, loser = processes[won.index(True)], processes[won.index(False)]
    assert winner.returncode == 0
    told = said[won.index(False)]
    if loser.returncode == 0:  # it came late enough to be compared with the winner
        assert "challenger" in told and "gain in image AUROC +0.0000" in told
    else:
        assert loser.returncode == 2
        assert "promote again" in told and told.splitlines()[-1].startswith("error: refused: folder/disc")


def test_cell_that_another_workspace_trained_too_is_promoted_from_its_own_run(
    bench: Bench, served: Registry, tmp_path: Path
):
    rebuilt, once_more = (copied(bench, tmp_path / name) for name in ("rebuilt", "once more"))
    bench.add(0, right=True)
    cell = rebuilt.add(0, right=True, seconds=2.5)
    bench.promote()
    rebuilt.promote()
    assert rebuilt.rows()["disc"]["verdict"] == "challenger"
    first, second = served.versions_of_cell(DISC, cell.key)
    assert [version_of(served, alias) for alias in (CHAMPION, CHALLENGER)] == [number(first), number(second)]
    runs = [served.client.get_run(str(version.run_id)).data.metrics for version in (first, second)]
    assert [metrics["train_seconds"] for metrics in runs] == [1.5, 2.5]
    assert served.evidence(second).files == file_hashes(rebuilt.workspace.run(cell))
    bench.promote()
    assert bench.rows()["disc"]["reasons"] == "it is champion already"

    rebuilt.configure(promotion__margin=-0.1)
    rebuilt.promote()
    assert version_of(served, CHAMPION) == number(second)
    promote.rollback("folder", "disc", rebuilt.workspace)
    once_more.add(0, right=True, seconds=3.5)
    once_more.promote()
    assert "rolled back by" in once_more.rows()["disc"]["reasons"]


def test_model_that_was_deleted_in_mlflow_is_told(bench: Bench):
    bench.add(0, right=True)
    bench.promote()
    version = get_version(bench.registry, "1")
    bench.registry.client.delete_registered_model(DISC)
    bench.registry.client.delete_logged_model(str(version.source).removeprefix("models:/"))
    with pytest.raises(PromotionError, match="refused"):
        bench.promote()
    assert "was deleted in MLflow" in bench.rows()["disc"]["reasons"]


def test_all_who_begin_at_once_share_one_experiment(bench: Bench, served: Registry, monkeypatch: pytest.MonkeyPatch):
    bench.configure(tracking__experiment="new")
    count, barrier = 4, Barrier(4)
    find, asked = MlflowClient.get_experiment_by_name, threading.local()

    def find_together(client: MlflowClient, name: str) -> Experiment | None:
        """All look before any goes on."""
        found = find(client, name)
        if not hasattr(asked, "once"):
            asked.once = True
            barrier.wait()
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", find_together)
    with ThreadPoolExecutor(count) as pool:
        trackers = list(pool.map(lambda _: Tracker.connect(bench.params, bench.workspace), range(count)))
    for tracker in trackers:
        tracker.require()
    assert len({tracker.experiment for tracker in trackers}) == 1


class TestNewLine:
    """A category without defective test images, or without any."""

    @staticmethod
    def fetch_without(bench: Bench, *parts: str) -> None:
        """Take the dataset without these folders from now on."""
        source = bench.workspace.root / f"new {len(parts)}"
        shutil.copytree(bench.source, source)
        for part in parts:
            shutil.rmtree(source / "disc" / part)
        bench.source = source
        bench.configure()
        fetch.run(bench.params, "folder", bench.workspace)

    def test_floors_of_validation_decide_where_there_are_no_test_images(self, bench: Bench):
        whole = bench.source
        self.fetch_without(bench, "test", "ground_truth")
        bench.add(0, right=True)
        bench.configure(promotion__floors={"image_auroc": 0.9}, promotion__ceilings={"false_alarms": 0.2})
        bench.promote()
        row = bench.rows()["disc"]
        assert (row["verdict"], row["reasons"]) == (
            "challenger",
            "image_auroc does not exist (no test images), but must be at least 0.9; "
            "false_alarms does not exist (no test images), but must be at most 0.2",
        )
        bench.configure(promotion__floors={"validation_auroc": 0.92})
        bench.promote()
        assert bench.rows()["disc"]["reasons"] == "validation_auroc 0.9000 is below 0.92"
        bench.configure(promotion__floors={"validation_auroc": 0.9})
        bench.promote()
        row = bench.rows()["disc"]
        assert (row["verdict"], row["reasons"]) == ("champion", "there was no champion")
        assert (row["image_auroc"], row["false_alarms"], row["validation_auroc"]) == ("", "", "0.9")
        champion = bench.registry.aliased(DISC, CHAMPION)
        assert champion is not None and champion.description is not None
        assert "no test images, validation AUROC 0.9000. It is champion" in champion.description
        assert bench.registry.evidence(champion).scores.empty

        bench.source = whole  # test images arrive
        bench.configure(promotion__seed=1)
        fetch.run(bench.params, "folder", bench.workspace)
        shutil.rmtree(bench.workspace.run(bench.cell(0)))
        shutil.rmtree(bench.workspace.score(bench.cell(0)))
        bench.add(1, right=True)
        bench.promote()
        assert "version 1 was measured on other test images and scored again" in bench.rows()["disc"]["reasons"]

    def test_champion_is_compared_on_the_images_that_both_were_validated_on(self, bench: Bench):
        self.fetch_without(bench, "test/hole", "ground_truth")
        floors = {"validation_auroc": 0.5}
        for seed, right in enumerate((False, True)):
            bench.add(seed, right)
        bench.configure(promotion__floors=floors)
        bench.promote()
        bench.configure(promotion__floors=floors, promotion__ceilings={"false_alarms": 0.0}, promotion__seed=1)
        bench.promote()
        row = bench.rows()["disc"]
        assert row["verdict"] == "champion"
        gain = "+1.0000 (95% bounds +1.0000 and +1.0000)"
        assert row["reasons"] == f"gain in AUROC of 1 held-out normal images and 1 synthetic anomalies {gain}"
        version = get_version(bench.registry, "2")
        assert version.description is not None
        assert "no defective test images, validation AUROC 0.9000, false alarms 0.0 % (95 %" in version.description

        bench.add(2, right=True, synthetic="cdef")
        bench.configure(promotion__floors=floors, promotion__seed=2)
        with pytest.raises(PromotionError, match="refused: folder/disc"):
            bench.promote()
        assert bench.rows()["disc"]["reasons"] == (
            "it cannot be compared with the champion, version 2: it has no defective test images, and the two were "
            "validated on different images; add test images, normal and defective, or delete the alias champion of "
            f"{DISC} in MLflow, so that floors and ceilings alone decide."
        )
        bench.registry.client.delete_registered_model_alias(DISC, CHAMPION)
        bench.promote()
        assert version_of(bench.registry, CHAMPION) == 3


class TestCopy:
    """From a development registry, MLflow's own database, to production, a server."""

    @pytest.fixture
    def development(self, bench: Bench) -> str:
        bench.add(0, right=True)
        bench.promote()
        return bench.registry.uri

    @pytest.fixture
    def production(self, bench: Bench, development: str, request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
        """A workspace of nothing but parameters, whose registry is the server's."""
        request.getfixturevalue("served")
        folder = tmp_path / "production"
        folder.mkdir()
        production = Bench(Workspace(folder), bench.source, bench.grid, bench.params)
        production.configure()
        return production

    def test_copied_champion_predicts_the_same_and_brings_its_evidence(
        self, bench: Bench, production: Bench, development: str, monkeypatch: pytest.MonkeyPatch
    ):
        production.promote(source=development, dry_run=True)
        assert production.registry.client.search_registered_models() == []
        Registry(development).client.set_model_version_tag(DISC, "1", FORCED, "a trial")
        production.promote(source=development)
        champion = production.registry.aliased(DISC, CHAMPION)
        assert champion is not None
        assert champion.tags["clflow.origin"] == f"version 1 at {development}, forced there: a trial"
        assert champion.tags["clflow.cell_key"] == bench.cell(0).key
        original = Registry(development).aliased(DISC, CHAMPION)
        assert original is not None
        before, after = Registry(development).evidence(original), production.registry.evidence(champion)
        assert (before.files, before.metrics, before.test_hash) == (after.files, after.metrics, after.test_hash)
        run = production.registry.client.get_run(str(champion.run_id))
        assert run.data.params["train.steps"] == "8" and run.data.tags["category"] == "disc"

        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        images = np.stack([read_image(path) for path in sorted((bench.source / "disc" / "test" / "hole").iterdir())])
        predictions = []
        for uri in (development, production.registry.uri):
            mlflow.set_tracking_uri(uri)
            predictions.append(mlflow.pyfunc.load_model(f"models:/{DISC}@{CHAMPION}").predict(images))
        for name, values in predictions[0].items():
            np.testing.assert_array_equal(values, predictions[1][name])

        production.promote(source=development)
        assert production.rows()["disc"]["verdict"] == "unchanged"

    def test_what_does_not_match_is_refused(self, bench: Bench, production: Bench, development: str):
        production.configure(protocol__map_size=32)
        self.refused(production, development, "measured with protocol.map_size 64, but params.yaml says 32")

        production.configure()
        (evidence,) = bench.workspace.mlflow_artifacts.rglob("evidence/scores.csv")
        edit(evidence, ",0.0", ",0.5")
        self.refused(production, development, "the stored scores are not those")
        edit(evidence, ",0.5", ",0.0")

        (weights,) = bench.workspace.mlflow_artifacts.rglob(WEIGHTS_FILE)
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        self.refused(production, development, f"{WEIGHTS_FILE} of cell")
        weights.write_bytes(content)

        Registry(development).client.delete_registered_model_alias(DISC, CHAMPION)
        self.refused(production, development, "has no champion")
        assert production.registry.client.search_registered_models() == []
        with pytest.raises(ClflowError, match="no MLflow database"):
            production.promote(source=f"sqlite:///{bench.workspace.root / 'absent.db'}")

    def test_other_test_images_than_those_of_the_champion_are_refused(
        self, bench: Bench, production: Bench, development: str, monkeypatch: pytest.MonkeyPatch
    ):
        production.promote(source=development)
        server = os.environ["MLFLOW_TRACKING_URI"]
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        change_image(bench, bench.cell(0), "test")
        bench.add(1, right=True)
        bench.configure(promotion__seed=1, promotion__margin=-0.9)
        bench.promote()
        assert version_of(bench.registry, CHAMPION) == 2, bench.rows()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        self.refused(production, development, "was measured on other test images")
        assert version_of(production.registry, CHAMPION) == 1

    def refused(self, production: Bench, source: str, reason: str) -> None:
        with pytest.raises(PromotionError, match="refused: folder/disc"):
            production.promote(source=source)
        assert reason in production.rows()["disc"]["reasons"]


def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(bench.workspace.root)
    for arguments, words in (
        (("promote",), "name one --dataset"),
        (("promote", "--all", "--dataset", "folder"), "name one --dataset"),
        (("promote", "--dataset", "folder", "--force", "--reason", "so"), "--force needs the --category that it is"),
        (("promote", "--dataset", "folder", "--category", "disc", "--force"), "and a --reason, which needs --force in"),
        (("promote", "--dataset", "folder", "--category", "disc", "--reason", "so"), "which needs --force in turn"),
        (("promote", "--dataset", "folder", "--category", "ring"), "'ring' is none of folder; it has disc, stripes"),
        (("rollback", "--dataset", "folder", "--category", "disc"), f"{DISC} has no champion"),
    ):
        assert words in refusal(*arguments, monkeypatch=monkeypatch, capsys=capsys)
