"""The colours of a heat map mean what its legend says."""

import numpy as np
import pytest

from clflow.heatmap import overlay, restore_aspect

IMAGE = np.full((9, 9, 3), (90, 120, 150), np.uint8)


def colour(score: float) -> tuple[int, int, int]:
    """Of a pixel far from any line, on a scale from 10 to 20."""
    red, green, blue = overlay(IMAGE, np.full((9, 9), score, np.float32), median=10, pixel_threshold=20)[4, 4]
    return int(red), int(green), int(blue)


@pytest.mark.parametrize("score", [0, 10, 15])
def test_up_to_halfway_the_image_is_grey(score: float) -> None:
    assert colour(score) == (120, 120, 120)


def test_colour_goes_from_yellow_to_red() -> None:
    yellow, red = colour(19), colour(30)
    assert min(yellow[:2]) > yellow[2] + 50
    assert red[0] > max(red[1:]) + 50
    assert colour(1000) == red


def test_a_line_is_around_what_is_above_the_threshold() -> None:
    scores = np.full((9, 9), 10, np.float32)
    scores[3:6, 3:6] = 21
    picture = overlay(IMAGE, scores, median=10, pixel_threshold=20)
    dark = (picture == (20, 20, 20)).all(axis=2)
    assert dark[3:6, 3:6].sum() == dark.sum() == 8
    assert not dark[4, 4]


def test_a_flat_detector_is_drawn_without_a_division_by_zero() -> None:
    assert np.isfinite(overlay(IMAGE, np.ones((9, 9), np.float32), median=1, pixel_threshold=1)).all()


@pytest.mark.parametrize(("size", "drawn"), [((640, 320), (9, 4)), ((3, 6), (4, 9)), ((9000, 1), (9, 1))])
def test_proportions_are_those_of_the_image(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    assert restore_aspect(IMAGE, *size).size == drawn
