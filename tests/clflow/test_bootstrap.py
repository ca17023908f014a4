"""The paired bootstrap against scikit-learn, and against what must hold for any scores."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import roc_auc_score

from clflow.bootstrap import RESAMPLES, draw_counts, paired_gain, resampled_auroc
from clflow.errors import DataError


@st.composite
def two_scorings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of both classes and two scorings with so few distinct values that ties are the rule."""
    size = draw(st.integers(2, 30))
    labels = draw(npst.arrays(np.int64, size, elements=st.integers(0, 1)))
    labels[:2] = 0, 1
    values = st.integers(-draw(st.integers(1, 12)), 12)
    scores, rival = (draw(npst.arrays(np.int64, size, elements=values)).astype(float) for _ in range(2))
    return labels, scores, rival


def separated(size: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 2
    return labels, rng.normal(size=size) + shift * labels


@given(two_scorings(), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_auroc_of_every_resample_equals_scikit_learn(given_scores, seed: int):
    labels, scores, _ = given_scores
    counts = draw_counts(labels, seed, resamples=5)
    expected = [roc_auc_score(labels, scores, sample_weight=drawn) for drawn in counts]
    np.testing.assert_allclose(resampled_auroc(labels, scores, counts), expected, atol=1e-12)


@given(two_scorings(), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_every_resample_has_as_many_of_each_class_as_the_test_set(given_scores, seed: int):
    labels, *_ = given_scores
    counts = draw_counts(labels, seed, resamples=20)
    for label in (0, 1):
        assert (counts[:, labels == label].sum(axis=1) == (labels == label).sum()).all()


@given(two_scorings())
@settings(deadline=None, max_examples=30)
def test_a_model_gains_nothing_over_itself(given_scores):
    labels, scores, _ = given_scores
    gain = paired_gain(labels, scores, scores, margin=0, confidence=0.95)
    assert (gain.mean, gain.lower, gain.upper, gain.p) == (0, 0, 0, 1)


@given(two_scorings())
@settings(deadline=None, max_examples=30)
def test_what_one_gains_the_other_loses(given_scores):
    labels, scores, rival = given_scores
    gain = paired_gain(labels, scores, rival, margin=0, confidence=0.9)
    loss = paired_gain(labels, rival, scores, margin=0, confidence=0.9)
    np.testing.assert_allclose([gain.mean, gain.lower, gain.upper], [-loss.mean, -loss.upper, -loss.lower], atol=1e-12)


@given(two_scorings())
@settings(deadline=None, max_examples=30)
def test_bounds_enclose_the_mean_and_p_agrees_with_the_lower_bound(given_scores):
    labels, scores, rival = given_scores
    gain = paired_gain(labels, scores, rival, margin=0.1, confidence=0.95)
    assert gain.lower <= gain.upper
    assert gain.lower >= -1 and gain.upper <= 1
    if gain.lower > 0.1:
        assert gain.p <= 0.05
    if gain.p < 0.05 - 1 / RESAMPLES:
        assert gain.lower > 0.1


def test_mean_is_near_the_difference_of_the_whole_test_set():
    labels, scores = separated(400, 2.0, 0)
    _, rival = separated(400, 1.0, 1)
    gain = paired_gain(labels, scores, rival, margin=0, confidence=0.95)
    assert gain.mean == pytest.approx(roc_auc_score(labels, scores) - roc_auc_score(labels, rival), abs=0.005)
    assert 0 < gain.lower < gain.mean < gain.upper
    assert gain.p < 0.05


def test_bounds_fall_short_of_the_truth_about_as_often_as_they_may():
    """Of two models equally good, the first must seem better at 90 % confidence in about 10 % of test sets."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    shared, seems_better = rng.normal(size=(150, 60)) + labels, 0
    for number, hard in enumerate(shared):
        scores, rival = hard + 0.7 * rng.normal(size=(2, 60))
        seems_better += paired_gain(labels, scores, rival, margin=0, confidence=0.9, seed=number).lower > 0
    assert 0.05 < seems_better / 150 < 0.17


def test_the_same_seed_gives_the_same_answer_and_another_seed_another():
    labels, scores = separated(60, 1.0, 0)
    _, rival = separated(60, 1.0, 1)
    answers = [paired_gain(labels, scores, rival, margin=0, confidence=0.95, seed=seed) for seed in (3, 3, 4)]
    assert answers[0] == answers[1] != answers[2]


def test_a_test_set_of_usual_size_takes_no_noticeable_time():
    labels, scores = separated(300, 1.0, 0)
    _, rival = separated(300, 1.0, 1)
    begin = time.process_time()
    paired_gain(labels, scores, rival, margin=0, confidence=0.95)
    assert time.process_time() - begin < 1


def test_what_cannot_be_compared_is_refused():
    labels, scores = separated(10, 1.0, 0)
    with pytest.raises(DataError, match="No image of the test set is defective"):
        paired_gain(np.zeros(10, int), scores, scores, margin=0, confidence=0.95)
    with pytest.raises(ValueError, match="not finite"):
        paired_gain(labels, np.full(10, np.nan), scores, margin=0, confidence=0.95)
    with pytest.raises(ValueError, match="must fit"):
        paired_gain(labels, scores[:9], scores, margin=0, confidence=0.95)
    with pytest.raises(ValueError, match="vector of 0"):
        paired_gain(labels + 1, scores, scores, margin=0, confidence=0.95)
