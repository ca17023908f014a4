"""Every shape is drawn on the foreground, at about the size that was asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clflow.config.schema import Shapes
from clflow.synthesis.shapes import SHAPES, fractal_noise
from tests.clflow.synthesis.pictures import object_area


def test_shapes_are_those_of_the_parameters() -> None:
    assert set(SHAPES) == set(Shapes.model_fields)


@pytest.mark.parametrize("name", sorted(SHAPES))
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), area=st.floats(10, 400))
def test_shape_is_a_coverage_of_the_foreground(name: str, seed: int, area: float) -> None:
    foreground = object_area(3)
    coverage = SHAPES[name](foreground, area, np.random.default_rng(seed))
    assert coverage.shape == foreground.shape
    assert coverage.dtype == np.float32
    assert coverage.min() >= 0
    assert coverage.max() <= 1
    if name != "misplaced":  # what bends leaves the object
        assert not coverage[~foreground].any()
    again = SHAPES[name](foreground, area, np.random.default_rng(seed))
    np.testing.assert_array_equal(coverage, again)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shape_has_about_the_wanted_area(name: str) -> None:
    whole = np.ones((256, 256), bool)
    rng = np.random.default_rng(0)
    for area in (60.0, 1500.0):
        drawn = np.median([(SHAPES[name](whole, area, rng) > 0.3).sum() for _ in range(25)])
        assert area / 3 < drawn < area * 3


def test_missing_pieces_are_mostly_bitten_from_the_edge() -> None:
    foreground = object_area(3, 128)
    rng = np.random.default_rng(0)
    edge = foreground & ~np.all([np.roll(foreground, s, a) for s in (-1, 1) for a in (0, 1)], axis=0)
    bitten = [SHAPES["missing"](foreground, 200, rng)[edge].any() for _ in range(40)]
    assert np.mean(bitten) > 0.6


def test_noise_is_centred_and_smooth() -> None:
    noise = fractal_noise((128, 128), 32, np.random.default_rng(0))
    assert abs(noise.mean()) < 0.3
    assert 0.2 < noise.std() < 1
    assert np.abs(np.diff(noise, axis=0)).mean() < noise.std() / 4
