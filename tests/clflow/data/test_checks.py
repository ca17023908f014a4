"""What is odd about images is told, with their number and the first of them; what is in order is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clflow.data.checks import check_count, check_images
from clflow.data.layout import scan
from tests import tiny


@pytest.fixture
def disc(tiny_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_source / "disc", tmp_path / "disc"))


def found(category: Path) -> list[str]:
    return check_images(category.parent, category.name, scan(category.parent, category.name, None, complete=False))


def test_images_in_order_need_no_word(disc: Path):
    (disc / "readme.txt").write_text("of the part")
    (disc / "train" / "good" / ".thumbnail.png").touch()
    assert found(disc) == []


def grey16(path: Path, white: int) -> None:
    Image.fromarray(np.linspace(0, white, 64 * 64).reshape(64, 64).astype(np.uint16)).save(path)


def leak(disc: Path) -> None:
    shutil.copy(disc / "train/good/003.png", disc / "test/good/900.png")


def repeat(disc: Path) -> None:
    for name in ("900", "901"):
        shutil.copy(disc / "train/good/003.png", disc / f"train/good/{name}.png")


def shrink(disc: Path) -> None:
    Image.new("RGB", (400, 63)).save(disc / "test/good/900.png")


def enlarge(disc: Path) -> None:
    Image.new("1", (10_000, 5_001)).save(disc / "train/good/900.png")


def darken(disc: Path) -> None:
    for index, path in enumerate((disc / "train/good").iterdir()):
        grey16(path, 1023 - index)


def blacken_mask(disc: Path) -> None:
    Image.new("L", (64, 64)).save(disc / "ground_truth/hole/001_mask.png")


def lose_mask(disc: Path) -> None:
    (disc / "ground_truth/hole/001_mask.png").unlink()


def add_strangers(disc: Path) -> None:
    Image.new("L", (64, 64)).save(disc / "train/good/a.gif")
    shutil.copytree(disc / "test/good", disc / "train/good/old", ignore=shutil.ignore_patterns("00[2-9].png"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (leak, "test images that are training images, too: 1, first disc/test/good/900.png; "),
        (repeat, "copies of other training images: 2, first disc/train/good/900.png; "),
        (shrink, "images less than 64 pixels wide or high: 1, first disc/test/good/900.png; "),
        (enlarge, "images of more than 50 megapixels: 1, first disc/train/good/900.png; "),
        (darken, "images that use 10 of their 16 bits: 12, first disc/train/good/000.png; "),
        (blacken_mask, "masks that are all black: 1, first disc/ground_truth/hole/001_mask.png; "),
        (lose_mask, "defective images without a mask: 1, first disc/test/hole/001.png; "),
        (add_strangers, "image files that are ignored (1 .gif, 2 .png): 3, first disc/train/good/a.gif; "),
    ],
)
def test_each_oddity_is_one_sentence(disc: Path, change: Callable[[Path], None], sentence: str):
    change(disc)
    (said,) = found(disc)
    assert said.startswith(sentence)


def test_files_beside_listed_images_are_nobodys_business(disc: Path):
    add_strangers(disc)
    rows = scan(disc.parent, disc.name, None, complete=False)
    assert check_images(disc.parent, None, rows) == []


def test_16_bits_that_are_used_are_in_order(disc: Path):
    grey16(disc / "train/good/000.png", 2**16 - 1)
    grey16(disc / "train/good/001.png", 1023)
    assert found(disc) == []


def test_without_any_mask_there_is_nothing_to_mislead(disc: Path):
    shutil.rmtree(disc / "ground_truth")
    assert found(disc) == []


def test_normal_images_too_few_for_the_false_alarm_rate():
    assert check_count(99, 0.01) is None
    said = check_count(tiny.TRAIN, 0.01)
    assert said == (
        "12 normal training images can keep a false alarm rate of 0.077 at best, not 0.01 "
        "(protocol.false_alarm_rate), for which 99 are needed"
    )
