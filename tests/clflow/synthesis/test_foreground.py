"""Objects are told from surfaces, and found."""

import cv2
import numpy as np
import pytest

from clflow.synthesis.foreground import foreground, shows_object
from tests.clflow.synthesis.pictures import draw_object, draw_surface, object_area


def test_objects_and_surfaces_are_told_apart() -> None:
    assert shows_object([draw_object(seed, 128) for seed in range(6)])
    assert not shows_object([draw_surface(seed, 128) for seed in range(6)])


def test_one_odd_image_does_not_turn_a_category() -> None:
    objects, surfaces = [draw_object(k, 128) for k in range(5)], [draw_surface(k, 128) for k in range(5)]
    assert shows_object([*objects, surfaces[0]])
    assert not shows_object([*surfaces, objects[0]])


def test_noise_and_a_blank_image_are_surfaces() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert not shows_object([noise])
    assert not shows_object([np.full((64, 64, 3), 90, np.uint8)])


@pytest.mark.parametrize("seed", range(4))
def test_foreground_is_the_object_a_little_widened(seed: int) -> None:
    true = object_area(seed, 128)
    found = foreground(draw_object(seed, 128), has_object=True)
    assert found.dtype == bool
    assert found[true].mean() > 0.97
    reach = cv2.dilate(true.astype(np.uint8), np.ones((13, 13), np.uint8)).astype(bool)
    assert not found[~reach].any()


def test_bright_object_on_dark_ground() -> None:
    found = foreground(255 - draw_object(1, 128), has_object=True)
    assert found[object_area(1, 128)].mean() > 0.97
    assert found.mean() < 0.5


def test_surface_and_image_without_an_object_are_taken_whole() -> None:
    assert foreground(draw_object(0), has_object=False).all()
    assert foreground(np.full((64, 64, 3), 90, np.uint8), has_object=True).all()
