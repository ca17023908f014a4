"""Fetching: from each kind of source, again when something changed, and not at all when nothing did."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from clflow.config.schema import Dataset
from clflow.data import catalogue, demo, download
from clflow.data.fetch import fetch
from clflow.data.manifest import read_manifest
from clflow.errors import DataError, ParameterError
from tests.archives import pack_tar, pack_zip, sha256, write_btad, write_image, write_mask, write_mvtec
from tests.loopback import Mirror, serve


class Workspace:
    """A workspace and its sources in a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.downloads, self.source = root, root / "downloads", root / "source"

    def fetch(
        self, name: str, categories: list[str], source: Path | None = None, layout: str | None = None
    ) -> pd.DataFrame:
        place = None if source is None else str(source)
        dataset = Dataset(layout=layout, source=place, categories=tuple(categories))
        return fetch(name, dataset, self.folder(name), self.downloads, self.root / ".clflow" / f"{name}.json")

    def folder(self, name: str) -> Path:
        return self.root / "data" / name

    def snapshot(self, name: str) -> dict[str, tuple[int, int]]:
        """Inode and modification time of every file: a file that was written anew differs."""
        files = (path for path in self.folder(name).rglob("*") if path.is_file())
        return {path.relative_to(self.folder(name)).as_posix(): _identity(path) for path in files}


def _identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(download, "PAUSES_S", (0.0, 0.0))
    return Workspace(tmp_path)


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Enters another archive for a dataset into the catalogue."""

    def enter(name: str, sha256: str, *urls: str) -> None:
        entry = catalogue.find(name)
        assert entry.archive is not None
        changed = replace(entry.archive, urls=urls, sha256=sha256)
        monkeypatch.setattr(catalogue, name.upper(), replace(entry, archive=changed))

    return enter


@pytest.fixture
def mvtec(workspace: Workspace) -> Path:
    for category in ("bottle", "grid"):
        write_mvtec(workspace.source, category)
    return workspace.source


# --- from each kind of source ----------------------------------------------------------------------------


def test_mvtec_is_downloaded_once_for_all_categories(workspace: Workspace, mvtec: Path, publish) -> None:
    archive = workspace.root / "served.tar.xz"
    digest = pack_tar(mvtec, archive)
    content = archive.read_bytes()
    half = len(content) // 2
    with serve(Mirror(content, cuts=[half])) as mirror:
        publish("mvtec_ad", digest, mirror.url)
        workspace.fetch("mvtec_ad", ["bottle"])
        manifest = workspace.fetch("mvtec_ad", ["bottle", "grid"])
        assert sum(mirror.sent) <= len(content) + download._CHUNK
        assert len(mirror.requests) == 2  # the one that was cut and the one that resumed it
    assert contents(workspace.folder("mvtec_ad") / "grid") == contents(mvtec / "grid")
    assert manifest["category"].value_counts().to_dict() == {"bottle": 8, "grid": 8}
    pd.testing.assert_frame_equal(read_manifest(workspace.folder("mvtec_ad")), manifest)
    assert {path.name for path in workspace.folder("mvtec_ad").iterdir()} == {
        "bottle",
        "grid",
        "manifest.csv",
    }


def test_btad_is_downloaded_in_all_its_file_types(workspace: Workspace, publish) -> None:
    for category in ("01", "02", "03"):
        write_btad(workspace.source / "BTech_Dataset_transformed", category)
    digest = pack_zip(workspace.source, workspace.root / "served.zip")
    with serve(Mirror((workspace.root / "served.zip").read_bytes())) as mirror:
        publish("btad", digest, mirror.url)
        manifest = workspace.fetch("btad", ["01", "02", "03"])
    assert manifest["category"].value_counts().to_dict() == {"01": 7, "02": 7, "03": 7}
    assert (manifest.loc[manifest["label"] == 1, "mask"] != "").all()


def test_falsified_download_leaves_nothing(workspace: Workspace, mvtec: Path, publish) -> None:
    archive = workspace.root / "served.tar.xz"
    digest = pack_tar(mvtec, archive)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    with serve(Mirror(bytes(content))) as mirror:
        publish("mvtec_ad", digest, mirror.url)
        with pytest.raises(DataError, match=r"sha256.* set data\.mvtec_ad\.source to a local archive or folder\.$"):
            workspace.fetch("mvtec_ad", ["bottle"])
    assert [path.name for path in workspace.downloads.iterdir() if path.suffix != ".lock"] == []
    assert not workspace.folder("mvtec_ad").exists()


def test_full_disk_is_one_sentence(workspace: Workspace, publish) -> None:
    workspace.downloads.mkdir()
    (workspace.downloads / "btad.zip.part").symlink_to("/dev/full")
    with serve(Mirror(b"content")) as mirror:
        publish("btad", "0" * 64, mirror.url)
        with pytest.raises(DataError, match="The disk is full; btad needs more space"):
            workspace.fetch("btad", ["01"])


@pytest.mark.parametrize("inner", ["", "BTech_Dataset_transformed"])
def test_local_folder_is_copied_from_its_root_or_the_folder_around(workspace: Workspace, inner: str) -> None:
    for category in ("01", "03"):
        write_btad(workspace.source / inner, category)
    manifest = workspace.fetch("btad", ["03"], workspace.source)
    assert contents(workspace.folder("btad") / "03") == contents(workspace.source / inner / "03")
    assert set(manifest["category"]) == {"03"}
    assert not (workspace.folder("btad") / "01").exists()


def test_own_folder_in_both_layouts_without_masks(workspace: Workspace) -> None:
    mine = write_mvtec(workspace.source, "screws")
    shutil.rmtree(mine / "ground_truth")
    (write_btad(workspace.source, "01")).rename(workspace.source / "plates")
    manifest = workspace.fetch("folder", ["screws", "plates"], workspace.source)
    defective = manifest.loc[manifest["label"] == 1]
    assert defective[["category", "defect"]].value_counts().to_dict() == {
        ("plates", "ko"): 2,
        ("screws", "broken"): 1,
        ("screws", "stain"): 1,
    }
    assert defective.loc[defective["category"] == "screws", "mask"].tolist() == ["", ""]


def test_own_datasets_with_own_names_lie_side_by_side(workspace: Workspace) -> None:
    for category in ("housing", "seal"):
        write_mvtec(workspace.source, category)
    first = workspace.fetch("line3", ["housing"], workspace.source, layout="folder")
    second = workspace.fetch("line4", ["seal"], workspace.source, layout="folder")
    assert set(first["category"]) == {"housing"} and set(second["category"]) == {"seal"}
    assert (workspace.folder("line3") / "housing").is_dir() and (workspace.folder("line4") / "seal").is_dir()
    with pytest.raises(ParameterError, match=r"data\.line5\.source must name the folder"):
        workspace.fetch("line5", ["seal"], layout="folder")


def test_demo_is_rendered(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("TRAIN", "TEST_GOOD", "TEST_DEFECTIVE"):
        monkeypatch.setattr(demo, size, 1)
    assert len(workspace.fetch("demo", ["bolt"])) == 5
    before = workspace.snapshot("demo")
    workspace.fetch("demo", ["bolt"])
    assert workspace.snapshot("demo") == before


# --- local archives and who vouches for them -------------------------------------------------------------


def test_published_archive_needs_no_sidecar(workspace: Workspace, mvtec: Path, publish) -> None:
    archive = workspace.root / "mine.tar.xz"
    publish("mvtec_ad", pack_tar(mvtec, archive))
    assert len(workspace.fetch("mvtec_ad", ["grid"], archive)) == 8


def test_repacked_archive_is_refused_until_a_sidecar_vouches_for_it(workspace: Workspace, mvtec: Path) -> None:
    archive = workspace.root / "mine.tar"
    digest = pack_tar(mvtec, archive, "w")
    with pytest.raises(DataError) as caught:
        workspace.fetch("mvtec_ad", ["grid"], archive)
    assert digest in str(caught.value) and "cf4313b1" in str(caught.value) and "mine.tar.sha256" in str(caught.value)

    sidecar = workspace.root / "mine.tar.sha256"
    for wrong in (f"{'0' * 64}  mine.tar\n", f"{digest}  other.tar\n", ""):
        sidecar.write_text(wrong)
        with pytest.raises(DataError, match=r"mine\.tar\.sha256 does not state"):
            workspace.fetch("mvtec_ad", ["grid"], archive)
    assert not workspace.folder("mvtec_ad").exists()

    sidecar.write_text(f"{'0' * 64}  other.tar\n{digest} *mine.tar\n")
    assert len(workspace.fetch("mvtec_ad", ["grid"], archive)) == 8


def test_archive_that_changed_is_read_again(workspace: Workspace, mvtec: Path, publish) -> None:
    archive = workspace.root / "mine.tar.xz"
    publish("mvtec_ad", pack_tar(mvtec, archive))
    workspace.fetch("mvtec_ad", ["grid"], archive)
    write_image(mvtec / "grid" / "train" / "good" / "new.png", "new", "L")
    publish("mvtec_ad", pack_tar(mvtec, archive))
    assert len(workspace.fetch("mvtec_ad", ["grid"], archive)) == 9


def test_touched_or_moved_archive_changes_nothing(workspace: Workspace, mvtec: Path, publish) -> None:
    archive = workspace.root / "mine.tar.xz"
    publish("mvtec_ad", pack_tar(mvtec, archive))
    workspace.fetch("mvtec_ad", ["grid"], archive)
    before = workspace.snapshot("mvtec_ad")
    os.utime(archive, ns=(1, 1))
    workspace.fetch("mvtec_ad", ["grid"], archive)
    workspace.fetch("mvtec_ad", ["grid"], archive.rename(workspace.root / "moved.tar.xz"))
    assert workspace.snapshot("mvtec_ad") == before


# --- again -----------------------------------------------------------------------------------------------


def test_second_run_touches_nothing(workspace: Workspace, mvtec: Path) -> None:
    first = workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    before, record = workspace.snapshot("mvtec_ad"), _identity(workspace.root / ".clflow" / "mvtec_ad.json")
    second = workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    pd.testing.assert_frame_equal(first, second)
    assert workspace.snapshot("mvtec_ad") == before
    assert _identity(workspace.root / ".clflow" / "mvtec_ad.json") == record


def test_only_the_changed_category_is_fetched_again(workspace: Workspace, mvtec: Path) -> None:
    workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    before = workspace.snapshot("mvtec_ad")
    write_image(mvtec / "grid" / "train" / "good" / "000.png", "changed", "L")
    (mvtec / "grid" / "train" / "good" / "003.png").unlink()
    manifest = workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    after = workspace.snapshot("mvtec_ad")
    assert contents(workspace.folder("mvtec_ad") / "grid") == contents(mvtec / "grid")
    assert {path for path in before if path.startswith("bottle") and after[path] == before[path]} == {
        path for path in before if path.startswith("bottle")
    }
    assert len(manifest) == 15


def test_categories_are_added_and_removed(workspace: Workspace, mvtec: Path) -> None:
    workspace.fetch("mvtec_ad", ["bottle"], mvtec)
    before = workspace.snapshot("mvtec_ad")
    workspace.fetch("mvtec_ad", ["grid", "bottle"], mvtec)
    after = workspace.snapshot("mvtec_ad")
    assert all(after[path] == before[path] for path in before if path.startswith("bottle"))
    manifest = workspace.fetch("mvtec_ad", ["grid"], mvtec)
    assert set(manifest["category"]) == {"grid"}
    assert {path.name for path in workspace.folder("mvtec_ad").iterdir()} == {"grid", "manifest.csv"}


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered", "additional", "manifest", "all"])
def test_damage_is_repaired(workspace: Workspace, mvtec: Path, damage: str) -> None:
    workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    folder = workspace.folder("mvtec_ad")
    expected = contents(folder)
    path = folder / "bottle" / "train" / "good" / "001.png"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "altered":
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(1, 1))
    elif damage == "additional":
        shutil.copy(path, path.with_name("copy.png"))
    elif damage == "manifest":
        (folder / "manifest.csv").write_text("nonsense")
    else:
        shutil.rmtree(folder)
    workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    assert contents(folder) == expected


def test_copied_workspace_is_recognised_by_content(workspace: Workspace, mvtec: Path) -> None:
    workspace.fetch("mvtec_ad", ["bottle"], mvtec)
    shutil.rmtree(mvtec)
    for path in workspace.folder("mvtec_ad").rglob("*.png"):
        os.utime(path, ns=(1, 1))  # as after a checkout
    before = workspace.snapshot("mvtec_ad")
    workspace.fetch("mvtec_ad", ["bottle"], mvtec)
    assert workspace.snapshot("mvtec_ad") == before


@pytest.mark.parametrize("what", ["folder", "archive", "category"])
def test_vanished_source_is_no_loss_while_the_data_is_intact(
    workspace: Workspace, mvtec: Path, publish, what: str
) -> None:
    source = mvtec
    if what == "archive":
        source = workspace.root / "mine.tar.xz"
        publish("mvtec_ad", pack_tar(mvtec, source))
    workspace.fetch("mvtec_ad", ["bottle", "grid"], source)
    before = workspace.snapshot("mvtec_ad")
    source.unlink() if what == "archive" else shutil.rmtree(source if what == "folder" else source / "grid")
    assert len(workspace.fetch("mvtec_ad", ["bottle", "grid"], source)) == 16
    assert workspace.snapshot("mvtec_ad") == before

    (workspace.folder("mvtec_ad") / "grid" / "train" / "good" / "000.png").unlink()
    with pytest.raises(DataError, match="does not exist"):
        workspace.fetch("mvtec_ad", ["bottle", "grid"], source)


def test_vanished_source_of_other_data_is_an_error(workspace: Workspace, mvtec: Path) -> None:
    workspace.fetch("mvtec_ad", ["bottle"], mvtec)
    with pytest.raises(DataError, match="nowhere"):
        workspace.fetch("mvtec_ad", ["bottle"], workspace.root / "nowhere")


def test_failure_leaves_the_data_as_it_was(workspace: Workspace, mvtec: Path) -> None:
    workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    before = workspace.snapshot("mvtec_ad")
    (mvtec / "grid" / "train" / "good" / "000.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    assert f"{mvtec / 'grid' / 'train' / 'good' / '000.png'} cannot be decoded" in str(caught.value)
    assert workspace.snapshot("mvtec_ad") == before
    assert {path.name for path in (workspace.root / "data").iterdir()} == {"mvtec_ad"}


def test_all_damaged_files_of_all_categories_are_named_at_once(workspace: Workspace, mvtec: Path) -> None:
    names = "bottle/train/good/001.png", "bottle/test/good/000.png", "grid/test/stain/000.png"
    damaged = [mvtec / name for name in names]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:90])
    write_mask(mvtec / "grid/ground_truth/broken/000_mask.png", side=5)
    with pytest.raises(DataError) as caught:
        workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    assert [path for path in damaged if f"Image {path} cannot be decoded" not in str(caught.value)] == []
    assert f"{mvtec}/grid/ground_truth/broken/000_mask.png is 5 x 5 pixels" in str(caught.value)


def test_leftovers_of_a_killed_run_are_cleared(workspace: Workspace, mvtec: Path) -> None:
    (workspace.root / "data" / ".tmp-mvtec_ad" / "bottle").mkdir(parents=True)
    (workspace.root / "data" / ".tmp-mvtec_ad" / "bottle" / "half").touch()
    workspace.fetch("mvtec_ad", ["bottle"], mvtec)
    assert contents(workspace.folder("mvtec_ad") / "bottle") == contents(mvtec / "bottle")
    assert {path.name for path in (workspace.root / "data").iterdir()} == {"mvtec_ad"}


@pytest.mark.parametrize("record", [None, "{", "[]", '{"version": 0}'])
def test_lost_record_means_fetching_again(workspace: Workspace, mvtec: Path, record: str | None) -> None:
    workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    path = workspace.root / ".clflow" / "mvtec_ad.json"
    path.unlink() if record is None else path.write_text(record)
    assert len(workspace.fetch("mvtec_ad", ["grid"], mvtec)) == 8
    assert {path.name for path in workspace.folder("mvtec_ad").iterdir()} == {"grid", "manifest.csv"}


# --- refusals --------------------------------------------------------------------------------------------


def test_images_that_fetch_did_not_place_are_never_replaced(workspace: Workspace, mvtec: Path) -> None:
    own = write_mvtec(workspace.folder("mvtec_ad"), "bottle", train=7)
    before = contents(own)
    with pytest.raises(DataError, match="was not put there by fetch"):
        workspace.fetch("mvtec_ad", ["bottle"], mvtec)
    assert contents(own) == before
    with pytest.raises(ParameterError, match=r"data\.mvtec_ad\.source lies in"):
        workspace.fetch("mvtec_ad", ["bottle"], own.parent)


@pytest.mark.parametrize("place", ["file", "folder", "category"])
def test_links_in_a_folder_are_refused(workspace: Workspace, mvtec: Path, place: str) -> None:
    link = {"file": "grid/test/good/000.png", "folder": "grid/test", "category": "grid"}[place]
    (mvtec / link).rename(mvtec / "elsewhere")
    (mvtec / link).symlink_to(mvtec / "elsewhere")
    with pytest.raises(DataError, match=f"^1 link: {mvtec / link}; replace it by what it points to"):
        workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)
    assert not workspace.folder("mvtec_ad").exists()


def test_links_of_all_categories_are_told_at_once(workspace: Workspace, mvtec: Path) -> None:
    images = [path for name in ("bottle", "grid") for path in sorted((mvtec / name / "train/good").iterdir())]
    for number, path in enumerate(images):
        path.symlink_to(path.rename(mvtec / f"{number}.png"))
    first = ", ".join(f"{mvtec}/bottle/train/good/00{i}.png" for i in range(3))
    said = f"^{len(images)} links: {first} and {len(images) - 3} more; replace them by what they point to"
    with pytest.raises(DataError, match=said):
        workspace.fetch("mvtec_ad", ["bottle", "grid"], mvtec)


def test_missing_source(workspace: Workspace) -> None:
    with pytest.raises(DataError, match=r"data\.btad\.source leads to .*nowhere\.zip, which does not exist"):
        workspace.fetch("btad", ["01"], workspace.root / "nowhere.zip")


def test_missing_category_in_a_folder(workspace: Workspace, mvtec: Path) -> None:
    with pytest.raises(DataError, match="screw, which does not exist"):
        workspace.fetch("mvtec_ad", ["bottle", "screw"], mvtec)


@pytest.mark.parametrize(
    "name, categories, source, message",
    [
        ("mvtec", ["bottle"], None, "'mvtec' is none of"),
        ("mvtec_ad", ["botle"], None, "no category 'botle'"),
        ("folder", ["mine"], None, "must name the folder"),
        ("folder", ["mine"], "file", "must be a folder"),
        ("demo", ["gear"], "file", "is rendered"),
    ],
)
def test_parameters_that_do_not_fit(
    workspace: Workspace, name: str, categories: list[str], source: str | None, message: str
) -> None:
    (workspace.root / "file").touch()
    with pytest.raises(ParameterError, match=message):
        workspace.fetch(name, categories, None if source is None else workspace.root / source)


def test_unreadable_place_is_one_sentence(workspace: Workspace, mvtec: Path) -> None:
    (workspace.root / "data").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="Fetching mvtec_ad failed"):
        workspace.fetch("mvtec_ad", ["bottle"], mvtec)
