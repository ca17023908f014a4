"""The folder of a category: complete, repeatable, and with held-out images kept apart."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clflow.config.params import Params
from clflow.data.images import read_image
from clflow.data.manifest import split_normals
from clflow.errors import DataError
from clflow.files import read_json
from clflow.synthesis.category import synthesis_key, synthesize_category
from tests.clflow.synthesis.pictures import SIZE, draw_object, draw_surface, make_params, only, write_normals


def make(tmp_path: Path, rows: pd.DataFrame, params: Params, name: str = "made") -> tuple[Path, pd.DataFrame]:
    folder = tmp_path / name
    synthesize_category(tmp_path / "data", rows, params, folder)
    return folder, pd.read_csv(folder / "index.csv")


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    return write_normals(tmp_path / "data", "bar", 8)


def test_folder_is_complete_and_consistent(tmp_path: Path, rows: pd.DataFrame) -> None:
    params = make_params()
    folder, index = make(tmp_path, rows, params)
    assert list(index) == [
        *("image", "mask", "original", "split", "x0", "y0", "x1", "y1", "shape", "source", "blending", "opacity")
    ]
    assert index["split"].tolist() == ["train"] * 6 + ["holdout"] * 3
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png")) == sorted(
        [*index["image"], *index["mask"], "contact_sheet.png"]
    )
    for row in index.to_dict("records"):
        image, mask = np.asarray(Image.open(folder / row["image"])), np.asarray(Image.open(folder / row["mask"]))
        assert image.shape == (SIZE, SIZE, 3)
        assert set(np.unique(mask)) == {0, 255}
        y, x = np.nonzero(mask)
        assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (row["x0"], row["y0"], row["x1"], row["y1"])
        original = read_image(tmp_path / "data" / row["original"], SIZE)
        assert (image != original)[mask > 0].any()
    marker = read_json(folder / "synthesis.json")
    assert marker["key"] == synthesis_key(rows, params)
    assert marker["foreground"] == "object"
    assert (marker["train"], marker["holdout"]) == (6, 3)


def test_surfaces_are_recognised(tmp_path: Path) -> None:
    rows = write_normals(tmp_path / "data", "weave", 4, draw_surface)
    folder, _ = make(tmp_path, rows, make_params(count=2))
    assert read_json(folder / "synthesis.json")["foreground"] == "surface"


def test_same_content_again_and_another_with_another_seed(tmp_path: Path, rows: pd.DataFrame) -> None:
    contents = []
    for name, given, seed in (("a", rows, 0), ("b", rows.iloc[::-1], 0), ("c", rows, 1)):
        folder, _ = make(tmp_path, given, make_params(seed=seed), name)
        contents.append(read_json(folder / "synthesis.json")["content_sha256"])
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_an_image_does_not_depend_on_how_many_are_made(tmp_path: Path, rows: pd.DataFrame) -> None:
    few, index_few = make(tmp_path, rows, make_params(count=4), "few")
    many, index_many = make(tmp_path, rows, make_params(count=9), "many")
    for split in ("train", "holdout"):
        pairs = zip(
            index_few.loc[index_few["split"] == split].to_dict("records"),
            index_many.loc[index_many["split"] == split].to_dict("records"),
            strict=False,
        )
        for one, other in pairs:
            assert (few / one["image"]).read_bytes() == (many / other["image"]).read_bytes()
            assert (few / one["mask"]).read_bytes() == (many / other["mask"]).read_bytes()


def test_originals_are_covered_evenly(tmp_path: Path, rows: pd.DataFrame) -> None:
    _, index = make(tmp_path, rows, make_params(count=12))
    uses = index.loc[index["split"] == "train", "original"].value_counts()
    assert uses.tolist() == [2] * 6


def test_nothing_of_the_other_side_of_the_split_is_used(tmp_path: Path) -> None:
    """Training images are red and held-out ones blue, so a leak would show."""
    data = tmp_path / "data"
    rows = write_normals(data, "bar", 8)
    params = make_params(count=12, shapes=only("blob", "shapes"), sources=only("other_image", "sources"))
    train, held_out = split_normals(rows, params.protocol.holdout)
    for part, channel in ((train, 0), (held_out, 2)):
        for number, path in enumerate(part["path"]):
            picture = np.zeros((SIZE, SIZE, 3), np.uint8)
            picture[..., channel] = draw_object(number)[..., 0]
            Image.fromarray(picture).save(data / path)
    folder, index = make(tmp_path, rows, params)
    assert set(index.loc[index["split"] == "train", "original"]) == set(train["path"])
    assert set(index.loc[index["split"] == "holdout", "original"]) == set(held_out["path"])
    for row in index.to_dict("records"):
        image = np.asarray(Image.open(folder / row["image"]))
        assert row["source"] == "other_image"
        assert image[..., 2 if row["split"] == "train" else 0].max() <= 2


def test_key_follows_what_determines_the_folder(tmp_path: Path, rows: pd.DataFrame) -> None:
    textures = tmp_path / "textures"
    textures.mkdir()
    Image.fromarray(draw_surface(0)).save(textures / "a.png")
    key = synthesis_key(rows, make_params())
    assert synthesis_key(rows.iloc[::-1], make_params()) == key
    assert synthesis_key(rows, make_params(textures=str(textures))) == key  # switched off
    changed = rows.assign(sha256=["0" * 64, *rows["sha256"][1:]])
    with_textures = make_params(textures=str(textures), sources=only("texture", "sources"))
    others = [
        synthesis_key(changed, make_params()),
        synthesis_key(rows, make_params(seed=1)),
        synthesis_key(rows, make_params(opacity=[0.2, 1.0])),
        synthesis_key(rows, with_textures),
    ]
    Image.fromarray(draw_surface(1)).save(textures / "b.png")
    others.append(synthesis_key(rows, with_textures))
    assert len({key, *others}) == 6
    train = make_params().train.model_copy(update={"steps": 1})
    assert synthesis_key(rows, make_params().model_copy(update={"train": train})) == key


def test_textures_are_used(tmp_path: Path, rows: pd.DataFrame) -> None:
    textures = tmp_path / "textures" / "woven"
    textures.mkdir(parents=True)
    Image.fromarray(draw_surface(0)).save(textures / "a.jpg")
    params = make_params(
        textures=str(textures.parent), sources=only("texture", "sources"), shapes=only("blob", "shapes")
    )
    _, index = make(tmp_path, rows, params)
    assert set(index["source"]) == {"texture"}


@pytest.mark.parametrize("exists", [False, True])
def test_texture_folder_without_images(tmp_path: Path, rows: pd.DataFrame, exists: bool) -> None:
    if exists:
        (tmp_path / "textures").mkdir()
    params = make_params(textures=str(tmp_path / "textures"), sources=only("texture", "sources"))
    with pytest.raises(DataError, match="holds no image" if exists else "does not exist"):
        make(tmp_path, rows, params)


def test_a_failure_leaves_what_was_there(tmp_path: Path, rows: pd.DataFrame) -> None:
    folder, _ = make(tmp_path, rows, make_params())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "data" / rows["path"][2]).write_bytes(b"no image")
    with pytest.raises(DataError, match="002"):
        make(tmp_path, rows, make_params(seed=1, count=30))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "made"]


def test_one_normal_image_is_too_few(tmp_path: Path, rows: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="at least 2"):
        make(tmp_path, rows.iloc[:1], make_params())
