"""What changes what: for every parameter, source file, library and input file, exactly the keys of the results that it
can change, and exactly the parts of the plan, which are what DVC's stages depend on."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from clflow import provenance
from clflow.config.params import load
from clflow.features.weights import find_weights
from clflow.files import read_json
from pipelines.stages import fetch
from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import FIRST, SECOND, Plan
from tests import tiny

CONTRAST = {"clflow", "clflow.plain", "clflow.own", "clflow-tuned"}
FLOWS = {*CONTRAST, "fastflow"}
ALL = {*FLOWS, "anomalib-padim"}
SETS = {"disc", "stripes", "disc.own", "stripes.own"}
NOTHING: set[str] = set()


@dataclass(frozen=True)
class Seen:
    """Keys by name of what is asked for, and the content of each part of the plan."""

    cells: dict[tuple[str, str, int], str]
    scores: dict[tuple[str, str, int], str]
    synthetic: dict[str, str]
    parts: dict[str, str]


@dataclass(frozen=True)
class Change:
    """What is another than before.

    Attributes:
        cells: methods whose cells, of all seeds, have other keys.
        categories: those of these cells.
        scores: methods whose scores have other keys.
        synthetic: names of the sets.
        stages: those whose part of the plan is another.
    """

    cells: set[str]
    categories: set[str]
    scores: set[str]
    synthetic: set[str]
    stages: set[str]


@dataclass(frozen=True)
class Place:
    """A workspace that asks for every kind of method, and its parameters."""

    workspace: Workspace
    tree: dict[str, Any]

    def look(self, tree: dict[str, Any] | None = None) -> Seen:
        tiny.write_params(self.workspace.params, tree or self.tree)
        plan = Plan(load(self.workspace.params), "folder", self.workspace)
        plan.write()
        stages = (*FIRST, *SECOND)
        return Seen(
            {(c.method, c.category, c.seed): c.key for c in plan.cells},
            {(c.method, c.category, c.seed): str(inputs) for c, inputs in plan.scored.items()},
            {name: wanted.key for name, wanted in plan.synthetic.items()},
            {stage: self.workspace.plan("folder", stage).read_text() for stage in stages},
        )


def difference(before: Seen, now: Seen) -> Change:
    """What of that which is asked for before and now has other keys, and which parts of the plan are others."""
    cells = {name for name in before.cells if name in now.cells and before.cells[name] != now.cells[name]}
    scores = {name for name in before.scores if name in now.scores and before.scores[name] != now.scores[name]}
    assert all((method, category, 1 - seed) in cells for method, category, seed in cells), "keys of all seeds"
    return Change(
        {method for method, _, _ in cells},
        {category for _, category, _ in cells},
        {method for method, _, _ in scores},
        {n for n in before.synthetic if n in now.synthetic and before.synthetic[n] != now.synthetic[n]},
        {stage for stage in before.parts if before.parts[stage] != now.parts[stage]},
    )


def stages_of(methods: set[str]) -> set[str]:
    """Stages that have work if the cells of these methods change; clflow is what is searched and promoted."""
    if not methods:
        return set()
    return {"train", "evaluate", "aggregate", "report"} | ({"tune", "promote"} if "clflow" in methods else set())


@pytest.fixture(scope="module")
def place(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("sensitivity")
    for name in ("textures", "textures-moved"):
        (folder / name).mkdir()
        Image.fromarray(np.full((8, 8, 3), 128, np.uint8)).save(folder / name / "grey.png")
    (folder / "textures-other").mkdir()
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(folder / "textures-other" / "grey.png")
    weights = find_weights("tf_efficientnet_lite0", "offline").file
    assert weights is not None
    for name in ("weights.pth", "weights-moved.pth"):
        shutil.copy(weights, folder / name)
    (folder / "weights-other.pth").write_bytes(b"others")
    for name, rate in (("tuned.yaml", 0.003), ("tuned-other.yaml", 0.004)):
        found = {"search": {}, "parameters": {"train": {"learning_rate": rate}}, "overrides": {}}
        tiny.write_params(folder / name, found)
    shutil.copytree(tiny_source, folder / "source")
    shutil.copytree(tiny_source, folder / "source-moved")
    tree = tiny.params_tree(folder / "source")
    tree["benchmark"] |= {"methods": sorted(ALL), "seeds": [0, 1]}
    tree["synthesis"] |= {"textures": "textures"}
    tree["synthesis"]["sources"]["texture"] = 1
    tree["model"]["weights"] = str(folder / "weights.pth")
    tree["overrides"] = {"folder/disc": {"train": {"positions": 65}}}
    tree["variants"] = {"plain": {"loss": {"contrast": 0.0}}, "own": {"synthesis": {"count": 7}}}
    tree["tuned"] = "tuned.yaml"
    tree["tune"]["datasets"] = tree["promotion"]["datasets"] = ["folder"]
    workspace = Workspace(folder)
    fetch.run(load(tiny.write_params(workspace.params, tree)), "folder", workspace)
    return Place(workspace, YAML(typ="safe").load(workspace.params))


@pytest.fixture(scope="module")
def before(place: Place) -> Seen:
    return place.look()


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all values of a parameter file; a list is one value."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def shape(name: str) -> tuple[tuple[str, ...], Any, set[str], set[str]]:
    return ("synthesis", "shapes", name), 2, ALL, SETS


def source(name: str) -> tuple[tuple[str, ...], Any, set[str], set[str]]:
    return ("synthesis", "sources", name), 2, ALL, SETS


# Path, another value, the methods whose cells it changes, the synthetic sets it changes.
KEYED: list[tuple[tuple[str, ...], Any, set[str], set[str]]] = [
    (("protocol", "image_size"), 96, ALL, SETS),
    (("protocol", "holdout"), 0.3, ALL, SETS),
    (("protocol", "false_alarm_rate"), 0.1, ALL, NOTHING),
    (("synthesis", "count"), 8, ALL - {"clflow.own"}, {"disc", "stripes"}),  # the variant has its own
    (("synthesis", "held_out"), 4, ALL, SETS),
    (("synthesis", "seed"), 1, ALL, SETS),
    (("synthesis", "textures"), "textures-other", ALL, SETS),
    *map(shape, ("blob", "scratch", "crack", "missing", "misplaced", "stain", "spots", "perlin")),
    *map(source, ("shifted", "other_image", "photometric", "texture")),
    (("synthesis", "opacity"), [0.2, 1.0], ALL, SETS),
    (("synthesis", "area"), [0.01, 0.08], ALL, SETS),
    (("model", "backbone"), "tf_efficientnet_lite1", ALL, NOTHING),
    (("model", "weights"), "weights-other.pth", ALL, NOTHING),
    (("model", "strides"), [8, 16], FLOWS, NOTHING),
    (("model", "grid"), 16, ALL, NOTHING),  # validation counts positions of it
    (("model", "pool"), 3, FLOWS, NOTHING),
    (("model", "kept_axes"), 100, FLOWS, NOTHING),
    (("model", "layout_shrinkage"), 0.1, CONTRAST, NOTHING),
    (("model", "coupling_steps"), 4, FLOWS, NOTHING),
    (("model", "hidden_ratio"), 0.5, FLOWS, NOTHING),
    (("model", "coupling"), "affine", FLOWS, NOTHING),
    (("model", "flows"), 2, FLOWS, NOTHING),
    (("model", "top_fraction"), 0.01, FLOWS, NOTHING),
    (("loss", "hardest"), 0.5, CONTRAST, NOTHING),
    (("loss", "hardest_fraction"), 0.3, CONTRAST, NOTHING),
    (("loss", "contrast"), 0.3, CONTRAST - {"clflow.plain"}, NOTHING),  # the variant has its own
    (("loss", "likelihood_margin"), 0.3, CONTRAST, NOTHING),
    (("loss", "proxy"), 0.1, CONTRAST, NOTHING),
    (("loss", "near_anomaly_normals"), 0.3, CONTRAST, NOTHING),
    (("loss", "start"), 0.4, CONTRAST, NOTHING),
    (("loss", "smoothing"), 0.2, CONTRAST, NOTHING),
    (("loss", "boundary_quantile"), 0.9, CONTRAST, NOTHING),
    (("loss", "margin"), 0.4, CONTRAST, NOTHING),
    (("loss", "temperature"), 0.5, CONTRAST, NOTHING),
    (("train", "steps"), 9, FLOWS, NOTHING),
    (("train", "pairs"), 5, CONTRAST, NOTHING),
    (("train", "box_positions"), 5, CONTRAST, NOTHING),
    (("train", "learning_rate"), 0.02, FLOWS - {"clflow-tuned"}, NOTHING),  # a search has found another
    (("train", "warmup"), 3, FLOWS, NOTHING),
    (("train", "weight_decay"), 0.1, FLOWS, NOTHING),
    (("train", "clip_norm"), 2.0, FLOWS, NOTHING),
    (("train", "bfloat16"), False, FLOWS, NOTHING),
    (("train", "eval_points"), 4, FLOWS, NOTHING),
    (("train", "keep_eval_weights"), False, FLOWS, NOTHING),
    (("variants", "plain", "loss", "contrast"), 0.9, {"clflow.plain"}, NOTHING),
    (("variants", "own", "synthesis", "count"), 5, {"clflow.own"}, {"disc.own", "stripes.own"}),
    (("tuned",), "tuned-other.yaml", {"clflow-tuned"}, NOTHING),
    (("resources", "workers_per_cell"), 2, FLOWS, NOTHING),
]

# The same for those that change cells of one category alone.
OF_ONE_CATEGORY: list[tuple[tuple[str, ...], Any, set[str], str]] = [
    (("train", "positions"), 66, FLOWS, "stripes"),  # disc has its own
    (("overrides", "folder/disc", "train", "positions"), 70, FLOWS, "disc"),
]

# Path, another value, the stages that have work though no key changes.
UNKEYED: list[tuple[tuple[str, ...], Any, set[str]]] = [
    (("benchmark", "name"), "other", {"report"}),
    (("benchmark", "methods"), [*sorted(ALL), "clflow.own-tuned"], {"train", "evaluate", "aggregate", "report"}),
    (("benchmark", "seeds"), [0, 1, 2], {"train", "evaluate", "aggregate", "report"}),
    (
        ("data", "folder", "categories"),
        ["disc"],
        {"synthesize", "tune", "train", "evaluate", "aggregate", "report", "promote"},
    ),
    (("data", "folder", "source"), "source-moved", NOTHING),  # the same images
    (("synthesis", "textures"), "textures-moved", NOTHING),  # the same photographs
    (("model", "weights"), "weights-moved.pth", NOTHING),  # the same tensors
    (("protocol", "map_size"), 32, {"aggregate"}),
    (("protocol", "mask_threshold"), 0.4, {"aggregate"}),
    (("tune", "datasets"), [], {"tune"}),
    (("tune", "method"), "fastflow", {"tune"}),
    (("tune", "seeds"), [1], {"tune"}),
    (("tune", "trials"), 9, {"tune"}),
    (("tune", "timeout"), 9.0, {"tune"}),
    (("tune", "grace"), 5, {"tune"}),
    (("tune", "reduction"), 3, {"tune"}),
    (("tune", "space", "loss.contrast", "choice"), [0.0, 0.1], {"tune"}),
    (("tune", "space", "loss.start", "uniform"), [0.2, 0.5], {"tune"}),
    (("tune", "space", "model.coupling_steps", "integer"), [2, 9], {"tune"}),
    (("tune", "space", "loss.likelihood_margin", "choice"), [0.0, 0.1], {"tune"}),
    (("tune", "space", "train.learning_rate", "log_uniform"), [0.001, 0.02], {"tune"}),
    (("promotion", "datasets"), [], {"promote"}),
    (("promotion", "method"), "fastflow", {"promote"}),
    (("promotion", "seed"), 1, {"promote"}),
    (("promotion", "floors", "image_auroc"), 0.8, {"promote"}),
    (("promotion", "ceilings", "false_alarms"), 0.1, {"promote"}),
    (("promotion", "latency_ms"), 999.0, {"promote"}),
    (("promotion", "margin"), 0.1, {"promote"}),
    (("promotion", "confidence"), 0.9, {"promote"}),
    (("serving", "replicas"), 2, NOTHING),
    (("serving", "batch"), 4, NOTHING),
    (("serving", "wait_ms"), 6.0, NOTHING),
    (("serving", "poll_seconds"), 6.0, NOTHING),
    (("serving", "body_mb"), 21.0, NOTHING),
    (("serving", "megapixels"), 51.0, NOTHING),
    (("watching", "window"), 400, NOTHING),
    (("watching", "alpha"), 0.02, NOTHING),
    (("watching", "looks"), 12, NOTHING),
    (("resources", "cluster"), "auto", NOTHING),
    (("resources", "storage"), "elsewhere", NOTHING),
    (("resources", "cpus_per_worker"), 2, NOTHING),
    (("resources", "gpus_per_worker"), 0.5, NOTHING),
    (("resources", "attempts"), 3, NOTHING),
    (("resources", "feature_cache_gb"), 2.0, NOTHING),
    (("tracking", "experiment"), "other", {"promote"}),
]

# Where another dataset would be asked for, its own plan changes, which is another file.
CLASSIFIED = {("benchmark", "datasets")} | {row[0] for rows in (KEYED, OF_ONE_CATEGORY, UNKEYED) for row in rows}


def with_value(tree: dict[str, Any], path: tuple[str, ...], value: Any, folder: Path) -> dict[str, Any]:
    changed = copy.deepcopy(tree)
    section = changed
    for key in path[:-1]:
        section = section[key]
    assert section[path[-1]] != value, "another value"
    section[path[-1]] = str(folder / value) if path == ("model", "weights") else value
    return changed


def named(value: Any) -> str:
    return ".".join(value) if isinstance(value, tuple) else value if isinstance(value, str) else ""


def test_every_parameter_is_classified(place: Place):
    """A new parameter must be put into one of the tables above."""
    assert set(leaves(place.tree)) == CLASSIFIED


@pytest.mark.parametrize(("path", "value", "methods", "sets"), KEYED, ids=named)
def test_parameter_changes_exactly_the_keys_of_what_it_determines(
    place: Place, before: Seen, path: tuple[str, ...], value: Any, methods: set[str], sets: set[str]
):
    changed = difference(before, place.look(with_value(place.tree, path, value, place.workspace.root)))
    assert changed.cells == changed.scores == methods
    assert changed.categories == set(tiny.CATEGORIES)
    assert changed.synthetic == sets
    assert changed.stages == stages_of(methods) | ({"synthesize"} if sets else NOTHING)


@pytest.mark.parametrize(("path", "value", "methods", "category"), OF_ONE_CATEGORY, ids=named)
def test_parameter_of_one_category_changes_its_keys_alone(
    place: Place, before: Seen, path: tuple[str, ...], value: Any, methods: set[str], category: str
):
    changed = difference(before, place.look(with_value(place.tree, path, value, place.workspace.root)))
    assert changed.cells == changed.scores == methods
    assert changed.categories == {category}
    assert changed.synthetic == NOTHING
    assert changed.stages == stages_of(methods)


@pytest.mark.parametrize(("path", "value", "stages"), UNKEYED, ids=named)
def test_parameter_that_determines_no_result_changes_no_key(
    place: Place, before: Seen, path: tuple[str, ...], value: Any, stages: set[str]
):
    changed = difference(before, place.look(with_value(place.tree, path, value, place.workspace.root)))
    assert changed.cells == changed.scores == changed.synthetic == NOTHING
    assert changed.stages == stages


SOURCES: list[tuple[str, set[str], set[str], set[str]]] = [
    # file, methods whose cells it changes, methods whose scores, and further stages
    ("clflow/methods/flow.py", FLOWS, FLOWS, NOTHING),
    ("clflow/methods/peer.py", {"anomalib-padim"}, {"anomalib-padim"}, NOTHING),
    ("clflow/methods/padim.py", {"anomalib-padim"}, {"anomalib-padim"}, NOTHING),
    ("clflow/methods/patchcore.py", NOTHING, NOTHING, NOTHING),  # nobody asks for it
    ("clflow/methods/registry.py", NOTHING, NOTHING, {"promote"}),
    ("clflow/model/flow.py", FLOWS, FLOWS, NOTHING),
    ("clflow/model/whitening.py", FLOWS, FLOWS, NOTHING),
    ("clflow/model/losses.py", FLOWS, FLOWS, NOTHING),
    ("clflow/model/scorer.py", FLOWS, FLOWS, NOTHING),
    ("clflow/model/detector.py", ALL, ALL, NOTHING),
    ("clflow/calibration.py", ALL, ALL, NOTHING),
    ("clflow/training/loop.py", FLOWS, FLOWS, NOTHING),
    ("clflow/training/crossfit.py", FLOWS, FLOWS, NOTHING),
    ("clflow/training/sampler.py", FLOWS, FLOWS, NOTHING),
    ("clflow/training/data.py", ALL, ALL, NOTHING),
    ("clflow/training/validation.py", ALL, ALL, NOTHING),
    ("clflow/training/outcome.py", ALL, ALL, NOTHING),
    ("clflow/features/backbone.py", ALL, ALL, NOTHING),
    ("clflow/features/cache.py", ALL, ALL, NOTHING),
    ("clflow/features/registration.py", ALL, ALL, NOTHING),
    ("clflow/metrics.py", ALL, ALL, {"aggregate", "report", "promote"}),
    ("clflow/data/images.py", ALL, ALL, {"synthesize", "aggregate", "report", "promote"}),
    ("clflow/synthesis/shapes.py", ALL, ALL, {"synthesize"}),
    ("clflow/synthesis/recipe.py", ALL, ALL, {"synthesize"}),
    ("clflow/data/demo.py", NOTHING, NOTHING, NOTHING),
    (
        "clflow/config/schema.py",
        NOTHING,
        NOTHING,
        {"report", "promote"},
    ),  # values are in the keys, not how they are checked
    ("clflow/files.py", NOTHING, NOTHING, NOTHING),
    ("clflow/plugins.py", NOTHING, NOTHING, NOTHING),
    ("clflow/evaluation.py", NOTHING, ALL, NOTHING),
    ("clflow/bootstrap.py", NOTHING, NOTHING, {"report", "promote"}),
    ("clflow/rates.py", NOTHING, NOTHING, {"aggregate", "report", "promote"}),
    ("clflow/heatmap.py", NOTHING, NOTHING, {"report"}),
    ("clflow/pro.py", NOTHING, NOTHING, {"aggregate"}),
    ("pipelines/reporting/tables.py", NOTHING, NOTHING, {"aggregate"}),
    ("pipelines/reporting/plots.py", NOTHING, NOTHING, {"report"}),
    ("pipelines/reporting/published.py", NOTHING, NOTHING, {"report"}),
    ("pipelines/reporting/page/page.js", NOTHING, NOTHING, {"report"}),
    ("pipelines/registry/gate.py", NOTHING, NOTHING, {"promote"}),
    ("pipelines/cli.py", NOTHING, NOTHING, NOTHING),
    ("pipelines/compute/cluster.py", NOTHING, NOTHING, NOTHING),
    ("pipelines/compute/queue.py", NOTHING, NOTHING, NOTHING),
    ("pipelines/tracking/tracker.py", NOTHING, NOTHING, NOTHING),
    ("pipelines/inference/predict.py", NOTHING, NOTHING, NOTHING),
    ("pipelines/inference/serving/gateway.py", NOTHING, NOTHING, NOTHING),
    ("pipelines/costs/bench.py", NOTHING, NOTHING, NOTHING),
    ("pipelines/search/study.py", NOTHING, NOTHING, NOTHING),
]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of both packages, which keys are made of."""
    for package in ("clflow", "pipelines"):
        shutil.copytree(tiny.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    tiny.forget_code()
    yield tmp_path
    tiny.forget_code()


@pytest.mark.parametrize(("file", "cells", "scores", "further"), SOURCES, ids=named)
def test_source_changes_exactly_what_it_computes(
    place: Place, before: Seen, checkout: Path, file: str, cells: set[str], scores: set[str], further: set[str]
):
    with (checkout / file).open("a") as code:
        code.write("\n_TOUCHED = 1\n")
    changed = difference(before, place.look())
    assert changed.cells == cells
    assert changed.scores == scores
    scored = {"evaluate", "aggregate", "report"} if scores else NOTHING
    assert changed.stages == stages_of(cells) | scored | further


def test_comment_changes_nothing(place: Place, before: Seen, checkout: Path):
    for file in checkout.rglob("*.py"):
        file.write_text("# a comment\n" + file.read_text())
    assert difference(before, place.look()).stages == NOTHING


@pytest.mark.parametrize(
    ("library", "cells", "stages"),
    [
        ("torch", ALL, stages_of(ALL)),
        ("timm", ALL, stages_of(ALL)),
        ("FrEIA", FLOWS, stages_of(FLOWS)),
        ("anomalib", {"anomalib-padim"}, stages_of({"anomalib-padim"})),
        ("opencv-python-headless", ALL, stages_of(ALL) | {"synthesize"}),
        ("matplotlib", NOTHING, {"report"}),
        ("ray", NOTHING, NOTHING),
        ("mlflow", NOTHING, NOTHING),
        ("filelock", NOTHING, NOTHING),
    ],
)
def test_library_changes_exactly_what_it_computes(
    place: Place,
    before: Seen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    cells: set[str],
    stages: set[str],
):
    folder = tmp_path / f"{library.replace('-', '_')}-99.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 99.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tiny.forget_code()
    changed = difference(before, place.look())
    monkeypatch.undo()
    tiny.forget_code()
    assert changed.cells == cells
    assert changed.stages == stages


@pytest.mark.parametrize(
    ("file", "cells", "stages"),
    [
        ("source/disc/train/good/000.png", ALL, stages_of(ALL) | {"synthesize"}),
        ("source/disc/test/good/000.png", NOTHING, {"evaluate", "aggregate", "report"}),
        ("source/disc/ground_truth/hole/000_mask.png", NOTHING, {"evaluate", "aggregate", "report"}),
        ("textures/grey.png", ALL, stages_of(ALL) | {"synthesize"}),
    ],
)
def test_image_changes_exactly_what_is_made_of_it(
    place: Place, before: Seen, tmp_path: Path, file: str, cells: set[str], stages: set[str]
):
    moved = Workspace(Path(shutil.copytree(place.workspace.root, tmp_path / "workspace")))
    tree = copy.deepcopy(place.tree)
    tree["data"]["folder"]["source"] = str(moved.root / "source")
    path = moved.root / file
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    fetch.run(load(tiny.write_params(moved.params, tree)), "folder", moved)
    changed = difference(before, Place(moved, tree).look())
    assert changed.cells == cells
    assert changed.stages == stages
    if cells and file.startswith("source"):
        assert changed.categories == {"disc"}


def test_plan_says_what_every_key_is_made_of(place: Place, before: Seen):
    place.look()
    page = read_json(place.workspace.plan("folder"))
    assert len(page["cells"]) == len(before.cells)
    for cell in page["cells"]:
        assert before.cells[cell["method"], cell["category"], cell["seed"]] == cell["key"]
        assert {"data", "synthetic", "weights", "parameters", "code", "libraries"} <= cell["inputs"].keys()
