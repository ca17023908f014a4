"""The demo is the same everywhere, laid out like MVTec AD, and its masks mark what changed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clflow.data import demo
from clflow.data.catalogue import find
from clflow.testing import RenderedDatasetContract
from tests.archives import sha256

CATEGORIES = tuple(find("demo").counts)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "TRAIN", 2)
    monkeypatch.setattr(demo, "TEST_GOOD", 1)
    monkeypatch.setattr(demo, "TEST_DEFECTIVE", 2)


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*.png")}


class TestDemo(RenderedDatasetContract):
    name = "demo"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("category", CATEGORIES)
def test_same_seed_same_pixels(tmp_path: Path, category: str) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        demo.render(category, tmp_path / name, seed)
    first, again, other = (files(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())
    assert len(set(first.values())) == len(first)


@pytest.mark.parametrize("category", CATEGORIES)
def test_masks_mark_what_changed(category: str) -> None:
    scene, defects = demo._CATEGORIES[category]
    assert len(defects) == 3
    for name, damage in defects.items():
        for seed in range(4):
            rng = np.random.default_rng(seed)
            intact = scene.sample(rng)
            before, after = (np.asarray(part.draw()) for part in (intact, damage(intact, rng)))
            mask = demo._difference(before, after) > 0
            change = np.abs(demo._shrink(after) - demo._shrink(before)).max(axis=2)
            assert 0.001 < mask.mean() < 0.12, name
            assert change[~mask].max() <= demo.VISIBLE, name
            assert (change[mask] > demo.VISIBLE).mean() > 0.5, name


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("category", CATEGORIES)
def test_files_are_squares_with_masks_of_two_levels(tmp_path: Path, category: str) -> None:
    demo.render(category, tmp_path, 0)
    for path in tmp_path.rglob("*.png"):
        pixels = np.asarray(Image.open(path))
        if "ground_truth" in path.parts:
            assert pixels.shape == (demo.SIZE, demo.SIZE)
            assert set(np.unique(pixels)) == {0, 255}
        else:
            assert pixels.shape == (demo.SIZE, demo.SIZE, 3)
            assert pixels.std() > 10
