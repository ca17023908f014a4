"""Regions are what is connected above the threshold, in pixels of the image."""

from __future__ import annotations

import numpy as np

from clflow.regions import Region, find_regions


def test_regions_of_a_map_in_pixels_of_a_larger_image():
    scores = np.zeros((4, 8), np.float32)
    scores[0, 0], scores[1, 1] = 2, 3  # they touch at a corner
    scores[2:4, 5:8] = 5
    scores[3, 0] = 1  # not above
    assert find_regions(scores, 1.0, (80, 20)) == [
        Region(x=50, y=10, width=30, height=10, area=300, peak=5.0),
        Region(x=0, y=0, width=20, height=10, area=100, peak=3.0),
    ]
    assert find_regions(scores, 5.0, (80, 20)) == []


def test_what_lies_in_the_box_of_another_region_is_its_own():
    scores = np.zeros((5, 5), np.float32)
    scores[:, 0] = scores[4, :] = 2
    scores[1, 3] = 4
    inner, outer = find_regions(scores, 1.0, (5, 5))
    assert (inner.area, inner.peak, outer.area, outer.peak) == (1, 4.0, 9, 2.0)
    assert (outer.x, outer.y, outer.width, outer.height) == (0, 0, 5, 5)


def test_a_region_of_a_smaller_image_has_an_area():
    scores = np.zeros((8, 8), np.float32)
    scores[3, 3] = 2
    assert find_regions(scores, 1.0, (4, 4)) == [Region(x=1, y=1, width=1, height=1, area=1, peak=2.0)]
