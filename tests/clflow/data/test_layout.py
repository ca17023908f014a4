"""Folders in both layouts become rows; whatever does not fit is named in one sentence."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from clflow.data.layout import scan
from clflow.errors import DataError
from tests.archives import BTAD, MVTEC, sha256, write_btad, write_image, write_mask, write_mvtec


@pytest.fixture
def bottle(tmp_path: Path) -> Path:
    return write_mvtec(tmp_path, "bottle")


def refusal(category: Path, normal: str | None = "good", complete: bool = True) -> str:
    with pytest.raises(DataError) as caught:
        scan(category.parent, category.name, normal, complete)
    return str(caught.value)


@pytest.mark.parametrize("category", MVTEC)
def test_mvtec_layout(tmp_path: Path, category: str) -> None:
    write_mvtec(tmp_path, category)
    rows = scan(tmp_path, category, "good", complete=True)
    assert rows[["split", "label", "defect"]].value_counts().to_dict() == {
        ("train", 0, "good"): 4,
        ("test", 0, "good"): 2,
        ("test", 1, "broken"): 1,
        ("test", 1, "stain"): 1,
    }
    broken = rows.set_index("defect").loc["broken"]
    assert broken["category"] == category
    assert broken["path"] == f"{category}/test/broken/000.png"
    assert broken["mask"] == f"{category}/ground_truth/broken/000_mask.png"
    assert broken["sha256"] == sha256(tmp_path / broken["path"])
    assert broken["mask_sha256"] == sha256(tmp_path / broken["mask"])
    assert (rows.loc[rows["label"] == 0, ["mask", "mask_sha256"]] == "").all(axis=None)


@pytest.mark.parametrize("category", BTAD)
@pytest.mark.parametrize("normal", ["ok", None])
def test_btad_layout_in_each_of_its_file_types(tmp_path: Path, category: str, normal: str | None) -> None:
    write_btad(tmp_path, category)
    rows = scan(tmp_path, category, normal, complete=True)
    assert rows["defect"].value_counts().to_dict() == {"good": 5, "ko": 2}
    _, extension, mask_extension = BTAD[category]
    defective = rows.loc[rows["label"] == 1]
    assert defective["path"].tolist() == [f"{category}/test/ko/{i:04}.{extension}" for i in range(2)]
    assert defective["mask"].tolist() == [f"{category}/ground_truth/ko/{i:04}.{mask_extension}" for i in range(2)]


def test_masks_are_paired_by_name_not_by_position(tmp_path: Path) -> None:
    folder = write_mvtec(tmp_path, "bottle")
    for name in ("b10", "b9", "b9_x"):
        write_image(folder / "test" / "broken" / f"{name}.png", name)
    write_mask(folder / "ground_truth" / "broken" / "b9_x_mask.png")
    write_mask(folder / "ground_truth" / "broken" / "b10.png")
    rows = scan(tmp_path, "bottle", "good", complete=False)
    broken = rows.loc[rows["defect"] == "broken"]
    masks = {Path(path).stem: Path(mask).stem for path, mask in zip(broken["path"], broken["mask"], strict=True)}
    assert masks == {"000": "000_mask", "b10": "b10", "b9": "", "b9_x": "b9_x_mask"}


def test_extensions_in_capitals_and_hidden_files(bottle: Path) -> None:
    write_image(bottle / "train" / "good" / "x.BMP", "x")
    write_image(bottle / "train" / "good" / ".x.png", "x")
    (bottle / "train" / "good" / "readme.txt").write_text("not an image")
    rows = scan(bottle.parent, "bottle", "good", complete=True)
    assert "bottle/train/good/x.BMP" in rows["path"].tolist()
    assert len(rows) == 4 + 1 + 2 + 2


def test_missing_folder_empty_category_and_missing_parts_each_have_a_sentence(tmp_path: Path) -> None:
    assert "bottle does not exist" in refusal(tmp_path / "bottle")
    (tmp_path / "empty" / "train" / "good").mkdir(parents=True)
    assert "empty holds no images;" in refusal(tmp_path / "empty")
    for part, sentence in (
        ("train/good", "train/good holds no images; normal images to train"),
        ("test/good", "test/good holds no images; normal images to test"),
    ):
        folder = write_mvtec(tmp_path, "bottle")
        shutil.rmtree(folder / part)
        assert sentence in refusal(folder)
    folder = write_mvtec(tmp_path, "bottle")
    for part in ("test", "ground_truth"):
        for defect in ("broken", "stain"):
            shutil.rmtree(folder / part / defect)
    assert "test holds no defective images" in refusal(folder)


def test_a_new_part_has_no_defects_or_no_test_images_yet(bottle: Path) -> None:
    for part in ("test", "ground_truth"):
        for defect in ("broken", "stain"):
            shutil.rmtree(bottle / part / defect)
    rows = scan(bottle.parent, "bottle", None, complete=False)
    assert rows[["split", "label"]].value_counts().to_dict() == {("train", 0): 4, ("test", 0): 2}
    for part in ("test", "ground_truth"):
        shutil.rmtree(bottle / part)
    rows = scan(bottle.parent, "bottle", None, complete=False)
    assert rows["split"].tolist() == ["train"] * 4
    shutil.rmtree(bottle / "train" / "good")
    write_image(bottle / "test" / "good" / "000.png", "good")
    (bottle / "train" / "good").mkdir()
    assert "train/good holds no images; normal images to train" in refusal(bottle, None, complete=False)


def test_defects_without_normal_test_images(bottle: Path) -> None:
    shutil.rmtree(bottle / "test" / "good")
    rows = scan(bottle.parent, "bottle", None, complete=False)
    assert rows.loc[rows["split"] == "test", "label"].tolist() == [1, 1]


def test_test_images_are_not_overlooked_for_where_they_lie(bottle: Path) -> None:
    (bottle / "test").rename(bottle / "Test")
    assert "Test is none of train, test and ground_truth" in refusal(bottle, None, complete=False)
    (bottle / "Test").rename(bottle / "test")
    write_image(bottle / "test" / "000.png", "loose")
    assert "test/000.png lies in no folder" in refusal(bottle, None, complete=False)


def test_corrupt_image_is_named(bottle: Path) -> None:
    path = bottle / "test" / "good" / "001.png"
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path} cannot be decoded" in refusal(bottle)


def test_missing_mask_is_an_error_only_where_masks_are_required(bottle: Path) -> None:
    (bottle / "ground_truth" / "stain" / "000_mask.png").unlink()
    assert "stain/000.png has no mask" in refusal(bottle)
    rows = scan(bottle.parent, "bottle", None, complete=False)
    assert rows.loc[rows["defect"] == "stain", "mask"].tolist() == [""]


def test_mask_of_no_image(bottle: Path) -> None:
    write_mask(bottle / "ground_truth" / "stain" / "007_mask.png")
    assert "007_mask.png pairs with no image" in refusal(bottle, complete=False)


def test_two_masks_of_one_image(bottle: Path) -> None:
    write_mask(bottle / "ground_truth" / "stain" / "000.bmp")
    assert "are both masks of" in refusal(bottle)


def test_two_images_for_one_mask(bottle: Path) -> None:
    write_image(bottle / "test" / "stain" / "000.bmp", "other")
    assert "differ only in extension" in refusal(bottle)


def test_mask_of_another_size(bottle: Path) -> None:
    write_mask(bottle / "ground_truth" / "stain" / "000_mask.png", side=10)
    assert "is 10 x 10 pixels, but its image is 12 x 12" in refusal(bottle)


def test_masks_without_images_of_that_defect(bottle: Path) -> None:
    write_mask(bottle / "ground_truth" / "good" / "000_mask.png")
    assert "ground_truth/good pairs with no folder" in refusal(bottle)


def test_defective_images_among_those_for_training(bottle: Path) -> None:
    write_image(bottle / "train" / "broken" / "000.png", "broken")
    assert "train/broken is no normal folder" in refusal(bottle)


def test_layout_that_cannot_be_told(bottle: Path) -> None:
    write_image(bottle / "train" / "ok" / "000.png", "ok")
    assert "both train/good and train/ok" in refusal(bottle, normal=None)
    shutil.rmtree(bottle / "train")
    assert "neither train/good nor train/ok" in refusal(bottle, normal=None)


def test_defect_that_is_called_normal(bottle: Path) -> None:
    write_image(bottle / "test" / "ok" / "000.png", "ok")
    assert "test/ok is named like normal images" in refusal(bottle, complete=False)


def test_16_bit_images_pass(bottle: Path) -> None:
    image = Image.new("I;16", (12, 12), 40000)
    image.save(bottle / "train" / "good" / "deep.png")
    assert len(scan(bottle.parent, "bottle", "good", complete=True)) == 9
