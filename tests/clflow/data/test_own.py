"""A person's own images are found in each of the usual layouts, and what is found is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clflow.data.own import find_own_images, find_test_images
from clflow.errors import DataError
from tests import tiny


@pytest.fixture
def disc(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy of one category in the layout of MVTec AD."""
    return Path(shutil.copytree(tiny_source / "disc", tmp_path / "images" / "disc"))


def test_layout_of_mvtec_ad_with_test_images_and_masks(disc: Path):
    found = find_own_images(disc)
    assert len(found.normal) == tiny.TRAIN and len(found.test) == 2 * tiny.TEST
    assert str(found) == (
        "layout of MVTec AD: 12 normal images to train on; test images: 4 normal, 4 defective, 4 of them with masks"
    )
    assert (found.folder / found.normal["path"][0]).is_file()


def test_training_images_alone(disc: Path):
    shutil.rmtree(disc / "test")
    shutil.rmtree(disc / "ground_truth")
    assert str(find_own_images(disc)) == "layout of MVTec AD: 12 normal images to train on; no test images"


def test_folder_of_normal_images(disc: Path):
    flat = (disc / "train" / "good").rename(disc.parent / "flat")
    shutil.copytree(disc / "test" / "hole", flat / "old")
    found = find_own_images(str(flat))
    assert len(found.normal) == tiny.TRAIN and (found.folder / found.normal["path"][0]).is_file()
    assert str(found) == "folder of normal images: 12 normal images to train on; no test images"


def test_folder_with_good_and_others(disc: Path):
    found = find_own_images(disc / "test")
    assert str(found) == "folder good of normal images: 4 normal images to train on; no test images"
    assert found.searched == found.part == "test"


def test_list_of_paths(disc: Path):
    paths = sorted((disc / "train" / "good").iterdir())[:3] + sorted((disc / "test" / "good").iterdir())[:2]
    found = find_own_images([*map(str, paths), paths[0]])
    assert [found.folder / path for path in found.normal["path"]] == sorted(paths) and found.searched is None


def test_what_holds_no_images_is_one_sentence(disc: Path):
    for folder, says in (
        (disc.parent, r"images holds no images, and no train/good: it holds disc; name one of them"),
        (disc.parent / "none", r"none is no folder"),
        (disc / "test" / "good" / "000.png", r"000\.png is no folder"),
    ):
        with pytest.raises(DataError, match=says):
            find_own_images(folder)
    with pytest.raises(DataError, match="list of normal images is empty"):
        find_own_images([])
    (disc / "ground_truth" / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images, and no train/good: put the normal images there"):
        find_own_images(disc / "ground_truth" / "empty")


def test_test_images_need_no_training_images(disc: Path):
    shutil.rmtree(disc / "train")
    found = find_test_images(disc)
    assert found.rows["label"].tolist() == [0] * tiny.TEST + [1] * tiny.TEST
    assert sum(map(bool, found.rows["mask"])) == tiny.TEST
    with pytest.raises(DataError, match="test holds no images"):
        find_test_images(disc.parent)
