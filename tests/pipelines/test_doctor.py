"""What the doctor finds in names, images, weights and tracking, and that it writes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clflow.config.params import Params, load
from clflow.errors import DataError, ParameterError, WeightsError
from pipelines import doctor
from pipelines.doctor import Finding, Note
from pipelines.workspace.paths import Workspace
from tests import tiny


def params(tmp_path: Path, source: Path, **changes: Any) -> Params:
    return load(tiny.write_params(tmp_path / "params.yaml", tiny.params_tree(source, **changes)))


@pytest.fixture
def source(tiny_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_source, tmp_path / "source"))


def test_a_finding_is_a_line():
    lines = [str(Finding("images", verdict, "few")) for verdict in ("ok", "note", "wrong")]
    assert lines == ["ok     images: few", "note   images: few", "WRONG  images: few"]


def test_a_category_that_does_not_exist_is_wrong(tmp_path: Path):
    data = {"source": None, "layout": "mvtec_ad", "categories": ["botle"]}
    with pytest.raises(ParameterError, match=r"no category 'botle'; did you mean 'bottle'\?"):
        list(doctor._names(params(tmp_path, tmp_path, data__folder=data), Workspace(tmp_path)))


def test_images_of_all_categories_are_checked_at_once(tmp_path: Path, source: Path):
    Image.new("L", (64, 64)).save(source / "disc/ground_truth/hole/001_mask.png")
    found = [*doctor._images(given := params(tmp_path, source), Workspace(tmp_path))]
    assert [line for line in found if not isinstance(line, Note)] == [
        "folder/disc: 12 to train on, 8 to test",
        "folder/stripes: 12 to train on, 8 to test",
    ]
    few = "12 normal training images can keep a false alarm rate"
    starts = "folder/disc: masks that are all black: 1", f"folder/disc: {few}", f"folder/stripes: {few}"
    notes = [line for line in found if isinstance(line, Note)]
    assert all(note.startswith(start) for note, start in zip(notes, starts, strict=True))

    for name in ("disc/train/good/000.png", "stripes/test/hole/002.png"):
        (source / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"disc/train/good/000\.png cannot.*stripes/test/hole/002\.png cannot"):
        list(doctor._images(given, Workspace(tmp_path)))


def test_weights_that_no_hub_gives_are_wrong(tmp_path: Path):
    given = params(tmp_path, tmp_path, model__backbone="resnet18.a1_in1k", model__weights="hub")
    with pytest.raises(WeightsError, match=r"resnet18\.a1_in1k was .*, and the model hub .* does not"):
        list(doctor._weights(given, Workspace(tmp_path)))


def test_a_workspace_is_not_made_and_must_be_writable(tmp_path: Path, source: Path):
    given, workspace = params(tmp_path, source), Workspace(tmp_path / "new" / "run")
    assert str(workspace.root) in next(doctor._paths(given, workspace))
    assert "which the first run makes" in next(doctor._tracking(given, workspace))
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").touch()
    with pytest.raises(doctor.ClflowError, match=r"new is no folder; name another --workspace"):
        next(doctor._paths(given, workspace))
