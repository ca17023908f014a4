"""What fills a shape."""

import numpy as np
import pytest

from clflow.synthesis import sources
from clflow.synthesis.shapes import SHAPES
from clflow.synthesis.sources import Normal
from tests.clflow.synthesis.pictures import SIZE, draw_object, draw_surface, object_area


@pytest.fixture
def normal() -> Normal:
    return Normal(draw_object(3), object_area(3))


@pytest.fixture
def shape(normal: Normal) -> np.ndarray:
    return SHAPES["blob"](normal.foreground, 100, np.random.default_rng(1))


def test_transplants_come_from_the_object(normal: Normal, shape: np.ndarray) -> None:
    ground = draw_object(3).max(axis=2).max()
    other = Normal(draw_object(5), object_area(5))
    for seed in range(10):
        for picture in (
            sources.shifted(normal, shape, np.random.default_rng(seed)),
            sources.other_image(other, shape, np.random.default_rng(seed)),
        ):
            inside = picture[shape > 0.5]
            assert (inside.max(axis=1) < 0.75 * ground).mean() > 0.5


def test_other_image_shows_the_other_image(normal: Normal, shape: np.ndarray) -> None:
    green = Normal(np.full((SIZE, SIZE, 3), (10, 200, 10), np.uint8), np.ones((SIZE, SIZE), bool))
    picture = sources.other_image(green, shape, np.random.default_rng(0))
    assert (picture == (10, 200, 10)).all()


@pytest.mark.parametrize("name", ["blob", "scratch", "crack", "stain"])
def test_photometric_changes_the_material(normal: Normal, shape: np.ndarray, name: str) -> None:
    changes = []
    for seed in range(20):
        picture = sources.photometric(normal.image, shape, name, np.random.default_rng(seed))
        assert picture.dtype == np.uint8
        changes.append(np.abs(picture.astype(int) - normal.image)[shape > 0.5].mean())
    assert np.median(changes) > 8


def test_texture_is_cut_to_the_image(shape: np.ndarray) -> None:
    for size in (20, 300):
        picture = sources.texture(draw_surface(0, size), shape, np.random.default_rng(0))
        assert picture.shape == (SIZE, SIZE, 3)
        assert picture.std() > 5


def test_background_shows_the_ground_where_the_object_was(normal: Normal) -> None:
    picture = sources.background(normal, np.random.default_rng(0))
    assert picture[normal.foreground].mean() > 150 > normal.image[normal.foreground].mean()


def test_inpainting_closes_the_shape(normal: Normal, shape: np.ndarray) -> None:
    spoilt = normal.image.copy()
    spoilt[shape > 0] = (255, 0, 255)
    picture = sources.inpainted(spoilt, shape)
    assert not (picture == (255, 0, 255)).all(axis=2).any()


def test_warp_moves_nothing_off_the_shape_and_more_if_stronger(normal: Normal, shape: np.ndarray) -> None:
    moved = {}
    for strength in (0.1, 0.9):
        differences = []
        for seed in range(12):
            picture = sources.warped(normal.image, shape, strength, np.random.default_rng(seed))
            difference = np.abs(picture.astype(int) - normal.image)
            assert not difference[shape <= 0.5].any()
            differences.append(difference.sum())
        moved[strength] = np.mean(differences)
    assert moved[0.9] > 1.5 * moved[0.1]
