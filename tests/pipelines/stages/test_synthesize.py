"""The synthesize stage: only what is missing or changed is made, what is no longer asked for stays."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from clflow.config.params import Params
from clflow.data.manifest import write_manifest
from clflow.errors import DataError, ParameterError
from pipelines.stages.synthesize import run
from pipelines.workspace.paths import Workspace
from tests.clflow.synthesis.pictures import ROOT, draw_object, draw_surface, make_params, write_normals

DATASET = "parts"


def params_for(
    *categories: str,
    overrides: Mapping[str, object] | None = None,
    variants: Mapping[str, object] | None = None,
    methods: Sequence[str] = ("clflow",),
    **synthesis: object,
) -> Params:
    tree = make_params(**synthesis).model_dump(mode="json")
    tree["benchmark"]["datasets"] = [DATASET]
    tree["data"] = {DATASET: {"source": None, "categories": list(categories)}}
    tree["benchmark"]["methods"] = list(methods)
    tree["overrides"] = overrides or {}
    tree["variants"] = variants or {}
    return Params.model_validate_json(json.dumps(tree))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    data = made.data(DATASET)
    rows = [write_normals(data, "bar", 5, draw_object), write_normals(data, "weave", 5, draw_surface)]
    write_manifest(data, pd.concat(rows, ignore_index=True))
    return made


def state(workspace: Workspace, category: str) -> dict[str, tuple[int, bytes]]:
    folder = workspace.synthetic(DATASET, category)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_makes_what_is_missing_and_leaves_the_rest(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run(params_for("bar"), DATASET, workspace)
    assert capsys.readouterr().err == "  bar: 6 train / 3 held-out anomalies on the object\n"
    bar = state(workspace, "bar")
    run(params_for("bar", "weave"), DATASET, workspace)
    assert capsys.readouterr().err.splitlines() == [
        "  bar: 6 train / 3 held-out anomalies on the object, unchanged",
        "  weave: 6 train / 3 held-out anomalies on the surface",
    ]
    assert state(workspace, "bar") == bar
    assert state(workspace, "weave")


def test_override_remakes_its_category_only(workspace: Workspace) -> None:
    run(params_for("bar", "weave"), DATASET, workspace)
    bar, weave = state(workspace, "bar"), state(workspace, "weave")
    changed = {f"{DATASET}/weave": {"synthesis": {"count": 3}}}
    run(params_for("bar", "weave", overrides=changed), DATASET, workspace)
    assert state(workspace, "bar") == bar
    assert state(workspace, "weave") != weave
    index = pd.read_csv(workspace.synthetic(DATASET, "weave") / "index.csv")
    assert len(index) == 3 + 3  # of training images and of held-out ones


def test_variants_with_another_synthesis_have_a_set_of_their_own(workspace: Workspace) -> None:
    variants = {"plain": {"loss": {"contrast": 0.0}}, "few": {"synthesis": {"count": 3}}}
    params = params_for("bar", variants=variants, methods=["clflow", "clflow.plain", "clflow.few"])
    run(params, DATASET, workspace)
    folder = workspace.synthetic(DATASET)
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {"bar", "bar.few"}
    assert len(pd.read_csv(folder / "bar.few" / "index.csv")) == 3 + 3  # of training images and of held-out ones
    assert [params.synthetic_set("bar", m) for m in params.benchmark.methods] == ["bar", "bar", "bar.few"]
    few = state(workspace, "bar.few")
    run(params_for("bar"), DATASET, workspace)
    assert state(workspace, "bar.few") == few  # no longer asked for, but `clflow gc` alone removes it


def test_processes_make_the_same_as_one(workspace: Workspace) -> None:
    run(params_for("bar", "weave"), DATASET, workspace)
    together = {name: content for name, (_, content) in state(workspace, "weave").items()}
    shutil.rmtree(workspace.synthetic(DATASET, "weave"))
    run(params_for("bar", "weave"), DATASET, workspace)
    assert {name: content for name, (_, content) in state(workspace, "weave").items()} == together


def test_half_written_folders_are_made_anew(workspace: Workspace) -> None:
    run(params_for("bar"), DATASET, workspace)
    complete = {name: content for name, (_, content) in state(workspace, "bar").items()}
    folder = workspace.synthetic(DATASET)
    (folder / "bar" / "synthesis.json").unlink()
    (folder / ".tmp-weave-1").mkdir()
    run(params_for("bar"), DATASET, workspace)
    assert {name: content for name, (_, content) in state(workspace, "bar").items()} == complete
    assert [path.name for path in folder.iterdir()] == ["bar"]


def test_failure_names_its_category_and_stops_no_other(workspace: Workspace) -> None:
    for path in (workspace.data(DATASET) / "bar").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^parts/bar: Image .* cannot be decoded"):
        run(params_for("bar", "weave"), DATASET, workspace)
    assert state(workspace, "weave")
    assert not state(workspace, "bar")


def test_relative_texture_folder_is_one_in_the_workspace(workspace: Workspace) -> None:
    sources = {"shifted": 0.0, "other_image": 0.0, "photometric": 0.0, "texture": 1.0}
    params = params_for("bar", textures="photographs", sources=sources)
    with pytest.raises(DataError, match="photographs does not exist"):
        run(params, DATASET, workspace)
    write_normals(workspace.root / "photographs", "woven", 2, draw_surface)
    run(params, DATASET, workspace)
    assert "texture" in set(pd.read_csv(workspace.synthetic(DATASET, "bar") / "index.csv")["source"])


def test_dataset_that_is_not_described_or_not_fetched(workspace: Workspace) -> None:
    with pytest.raises(ParameterError, match="do not describe dataset 'btad'"):
        run(params_for("bar"), "btad", workspace)
    (workspace.data(DATASET) / "manifest.csv").unlink()
    with pytest.raises(DataError, match="fetch the dataset first"):
        run(params_for("bar"), DATASET, workspace)


def test_stage_needs_no_torch() -> None:
    code = "import sys, pipelines.stages.synthesize; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
