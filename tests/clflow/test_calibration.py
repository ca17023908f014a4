"""Thresholds keep the false alarm rate that was asked for, or say that they cannot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clflow.calibration import Rank, Thresholds, images_needed
from clflow.errors import DataError

RATES = st.floats(0.001, 0.5)


@given(images=st.integers(1, 2000), rate=RATES)
def test_the_lowest_rank_that_keeps_the_rate(images: int, rate: float):
    rank = Rank.keeping(rate, images)
    assert 1 <= rank.rank <= images
    if images >= images_needed(rate):
        assert rank.rate <= rate + 1e-9
        assert rank.rank == 1 or Rank(images, rank.rank - 1).rate > rate
    else:
        assert rank.rank == images and rank.rate > rate
    assert Rank.of_rate(rank.rate, images) == rank
    low, high = rank.interval()
    assert low < rank.rate < high


@pytest.mark.parametrize(("rate", "images"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1)])
def test_images_needed(rate: float, images: int):
    assert images_needed(rate) == images


@pytest.mark.parametrize(("images", "asked", "expected"), [(21, 0.01, 1 / 22), (99, 0.01, 0.01), (50, 0.1, 5 / 51)])
def test_new_images_are_called_anomalous_as_often_as_expected(images: int, asked: float, expected: float):
    rng = np.random.default_rng(0)
    rank = Rank.keeping(asked, images)
    assert rank.rate == pytest.approx(expected)
    rates = [np.exp(-rank.of(rng.exponential(size=images))) for _ in range(4000)]  # exact, for this distribution
    assert np.mean(rates) == pytest.approx(expected, rel=0.06)
    low, high = rank.interval(0.9)
    assert np.mean((low < np.array(rates)) & (np.array(rates) < high)) == pytest.approx(0.9, abs=0.02)


def test_thresholds_are_of_images_and_of_each_images_highest_pixel():
    maps = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    scores = np.array([3.0, 1.0, 2.0, 5.0, 4.0, 0.0])
    limits = Thresholds.keeping(0.3, maps, scores)
    assert (scores > limits.image).sum() == 1 and limits.image == 4
    assert ((maps > limits.pixel).any(axis=(1, 2))).sum() == 1
    assert limits.median_pixel_score == 11.5
    assert limits.image_at(None, 0.5) == 3
    assert limits.image_at(7.0, None) == 7
    assert limits.image_at(None, None) == limits.image
    with pytest.raises(DataError, match="give one"):
        limits.image_at(7.0, 0.5)


def test_a_rate_that_so_few_images_cannot_keep_is_refused():
    limits = Thresholds.keeping(0.01, np.zeros((9, 1, 1)), np.arange(9.0))
    assert limits.image == 8
    with pytest.raises(DataError, match=r"9 calibration images cannot keep a false alarm rate of 0\.01; 99 are needed"):
        limits.image_at(None, 0.01)
    assert limits.image_at(None, 0.1) == 8


def test_round_trip():
    limits = Thresholds(1.0, 2.0, 0.5, (0.1, 0.2))
    assert Thresholds.read(asdict(limits), Path("cell")) == limits
    for lost in ("calibration_scores", "pixel"):
        with pytest.raises(DataError, match="cell holds thresholds of another version"):
            Thresholds.read({name: value for name, value in asdict(limits).items() if name != lost}, Path("cell"))
