"""Archives that are sound, damaged or hostile."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clflow.data.archive import extract, safe_parts
from clflow.errors import DataError
from tests.archives import pack_tar, pack_zip, write_btad, write_mvtec


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    write_mvtec(root, "bottle")
    write_mvtec(root, "grid")
    return root


def tar_with(archive: Path, member: tarfile.TarInfo, content: bytes = b"") -> None:
    """A tar with a sound member first, then this one."""
    with tarfile.open(archive, "w") as tar:
        sound = tarfile.TarInfo("bottle/train/good/000.png")
        sound.size = 3
        tar.addfile(sound, io.BytesIO(b"png"))
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tar_gives_the_wanted_categories_only(tree: Path, tmp_path: Path, mode: str) -> None:
    pack_tar(tree, tmp_path / "archive", mode)
    steps: list[tuple[str, int, int | None]] = []
    extract(tmp_path / "archive", "", ["grid"], tmp_path / "out", lambda *step: steps.append(step))
    assert files(tmp_path / "out" / "grid") == files(tree / "grid")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"grid"}
    assert 0 < steps[0][1] <= steps[-1][1] <= (steps[-1][2] or 0)


def test_zip_gives_the_wanted_categories_only(tmp_path: Path) -> None:
    for category in ("01", "02"):
        write_btad(tmp_path / "tree" / "Root", category)
    pack_zip(tmp_path / "tree", tmp_path / "archive")
    extract(tmp_path / "archive", "Root", ["02"], tmp_path / "out")
    assert files(tmp_path / "out" / "02") == files(tmp_path / "tree" / "Root" / "02")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"02"}


@pytest.mark.parametrize("root", ["", "Root"])
def test_one_folder_around_everything_is_tolerated(tmp_path: Path, root: str) -> None:
    write_mvtec(tmp_path / "tree" / "around" / root, "bottle")
    pack_tar(tmp_path / "tree", tmp_path / "archive")
    extract(tmp_path / "archive", root, ["bottle"], tmp_path / "out")
    assert files(tmp_path / "out" / "bottle") == files(tmp_path / "tree" / "around" / root / "bottle")


def test_hidden_files_are_left_out(tree: Path, tmp_path: Path) -> None:
    (tree / "bottle" / "train" / "good" / "._000.png").write_bytes(b"AppleDouble")
    (tree / "__MACOSX").mkdir()
    pack_zip(tree, tmp_path / "archive")
    extract(tmp_path / "archive", "", ["bottle"], tmp_path / "out")
    assert "train/good/000.png" in files(tmp_path / "out" / "bottle")
    assert "train/good/._000.png" not in files(tmp_path / "out" / "bottle")


def test_missing_category_is_named(tree: Path, tmp_path: Path) -> None:
    pack_tar(tree, tmp_path / "archive")
    with pytest.raises(DataError, match="no folder screw"):
        extract(tmp_path / "archive", "", ["bottle", "screw"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_category_that_lies_in_two_places_is_refused(tree: Path, tmp_path: Path) -> None:
    write_mvtec(tree / "old", "bottle")
    pack_tar(tree, tmp_path / "archive")
    with pytest.raises(DataError, match="second category 'bottle'"):
        extract(tmp_path / "archive", "", ["bottle"], tmp_path / "out")


@pytest.mark.parametrize("name", ["../evil", "bottle/../../evil", "/evil", "C:/evil", "bottle\\..\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    archive = tmp_path / "archive"
    if kind == "tar":
        tar_with(archive, tarfile.TarInfo(name), b"evil")
    else:
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("bottle/train/good/000.png", b"png")
            file.writestr(name, b"evil")
    with pytest.raises(DataError, match="outside the folder"):
        extract(archive, "", ["bottle"], tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"archive"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused_wherever_they_are(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("elsewhere/thing")
    member.type, member.linkname = kind, "bottle/train/good/000.png"
    tar_with(tmp_path / "archive", member)
    with pytest.raises(DataError, match="'elsewhere/thing' is a link or a device"):
        extract(tmp_path / "archive", "", ["bottle"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("bottle/train/good/001.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as file:
        file.writestr("bottle/train/good/000.png", b"png")
        file.writestr(link, "/etc/hostname")
    with pytest.raises(DataError, match="is a link"):
        extract(tmp_path / "archive", "", ["bottle"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_member_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    tar_with(tmp_path / "archive", tarfile.TarInfo("bottle/./train/good/000.png"), b"other")
    with pytest.raises(DataError, match="occurs twice"):
        extract(tmp_path / "archive", "", ["bottle"], tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "zip"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.97])
def test_truncated_archive_is_refused(tree: Path, tmp_path: Path, mode: str, share: float) -> None:
    archive = tmp_path / "archive"
    pack_zip(tree, archive) if mode == "zip" else pack_tar(tree, archive, mode)
    whole = archive.read_bytes()
    # A plain tar ends with up to 10 kB of padding, which it can do without.
    archive.write_bytes(whole[: int(share * len(whole.rstrip(b"\0")))])
    with pytest.raises(DataError, match="damaged"):
        extract(archive, "", ["bottle"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plain_tar_that_is_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    tar_with(tmp_path / "archive", tarfile.TarInfo("bottle/train/good/001.png"), b"b" * 512)
    (tmp_path / "archive").write_bytes((tmp_path / "archive").read_bytes()[: 4 * 512])
    with pytest.raises(DataError, match="its end is missing"):
        extract(tmp_path / "archive", "", ["bottle"], tmp_path / "out")


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "zip"])
def test_flipped_bit_is_found_by_the_checksum_of_the_format(tree: Path, tmp_path: Path, mode: str) -> None:
    archive = tmp_path / "archive"
    pack_zip(tree, archive) if mode == "zip" else pack_tar(tree, archive, mode)
    content = bytearray(archive.read_bytes())
    position = content.index(b"IDAT") + 20 if mode == "zip" else len(content) // 2
    content[position] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        extract(archive, "", ["bottle"], tmp_path / "out")


@given(st.text(st.sampled_from("./\\ab:\0 -") | st.characters(codec="utf-8"), max_size=20))
def test_safe_names_stay_below_any_folder(name: str) -> None:
    try:
        parts = safe_parts(name)
    except ValueError:
        return
    base = Path("/base/folder")
    path = base.joinpath(*parts)
    assert path.is_relative_to(base)
    assert ".." not in path.parts
    assert len(path.parts) == len(base.parts) + len(parts)


@given(st.lists(st.text("ab", min_size=1), min_size=1))
def test_ordinary_names_are_kept(parts: list[str]) -> None:
    assert safe_parts("./" + "/".join(parts)) == tuple(parts)
