"""Mixing, and the annotation that follows from it."""

import numpy as np
import pytest

from clflow.synthesis import blending
from tests.clflow.synthesis.pictures import draw_surface

GREY = np.full((64, 64, 3), 100, np.uint8)
BRIGHT = np.full((64, 64, 3), 200, np.uint8)


def square(top: int, left: int, side: int) -> np.ndarray:
    coverage = np.zeros((64, 64), np.float32)
    coverage[top : top + side, left : left + side] = 1
    return coverage


def test_alpha_mixes_by_coverage_and_opacity() -> None:
    mixed = blending.alpha(GREY, BRIGHT, 0.5 * square(10, 10, 20), 0.4)
    assert (mixed[15, 15] == 120).all()
    assert (mixed[40, 40] == 100).all()


def test_feather_stays_on_the_foreground_and_keeps_the_peak() -> None:
    foreground = square(0, 0, 40) > 0
    line = np.zeros((64, 64), np.float32)
    line[20, :40] = 1
    soft = blending.feather(line, 1.0, foreground)
    assert soft.max() == pytest.approx(1)
    assert 0 < soft[21, 20] < 1
    assert not soft[~foreground].any()


@pytest.mark.parametrize(("top", "left", "side"), [(20, 20, 24), (0, 0, 10), (54, 54, 10), (30, 30, 2), (0, 0, 64)])
def test_poisson_works_at_edges_and_for_tiny_shapes(top: int, left: int, side: int) -> None:
    coverage = square(top, left, side)
    image, picture = draw_surface(0), draw_surface(1)[::-1].copy()
    blended = blending.poisson(image, picture, coverage, 1.0)
    difference = np.abs(blended.astype(int) - image).max(axis=2)
    assert difference[coverage > 0].max() >= 5
    far = np.pad(coverage, 4)
    near = np.max([np.roll(far, (i, j), (0, 1)) for i in range(-3, 4) for j in range(-3, 4)], axis=0)[4:-4, 4:-4]
    assert difference[near == 0].max(initial=0) <= 1


def test_poisson_takes_over_the_tone_of_its_surroundings() -> None:
    blended = blending.poisson(GREY, BRIGHT, square(20, 20, 24), 1.0)
    assert np.abs(blended.astype(int) - GREY).max() < 10


def test_annotation_is_where_it_changed() -> None:
    blended = GREY.copy()
    blended[10:20, 10:20] += 8
    support = square(5, 5, 30) > 0
    mask = blending.changed(GREY, blended, support)
    assert mask[11:19, 11:19].all()
    assert not mask[22:, :].any()


def test_faint_changes_and_specks_are_no_annotation() -> None:
    faint = GREY + np.uint8(4)
    assert not blending.changed(GREY, faint, np.ones((64, 64), bool)).any()
    speck = GREY.copy()
    speck[5, 5] = 255
    mask = blending.changed(GREY, speck, np.zeros((64, 64), bool))
    assert not mask.any()
    np.testing.assert_array_equal(blending.undo_outside(GREY, speck, mask), GREY)


def test_clear_change_outside_the_shape_is_annotated() -> None:
    blended = GREY.copy()
    blended[40:45, 40:45] = 200
    assert blending.changed(GREY, blended, np.zeros((64, 64), bool))[40:45, 40:45].all()
