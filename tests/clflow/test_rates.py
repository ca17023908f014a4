"""Rates at a threshold against counts and published tables of the exact interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clflow.rates import AT_THRESHOLD, rates_at


def test_rates_count_what_is_judged_wrongly_and_a_score_at_the_threshold_is_normal():
    rates = rates_at(1.0, [0, 0, 0, 0, 1, 1], [0.5, 1.0, 1.5, 0.2, 1.0, 2.0])
    assert tuple(rates) == AT_THRESHOLD
    assert (rates["false_alarms"], rates["misses"]) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("wrong", "total", "low", "high"),
    # Closed forms at the ends; between them, tables of Clopper and Pearson's limits.
    [
        (0, 16, 0, 1 - 0.025 ** (1 / 16)),
        (16, 16, 0.025 ** (1 / 16), 1),
        (0, 1, 0, 0.975),
        (4, 16, 0.0727, 0.5238),
        (1, 20, 0.0013, 0.2487),
    ],
)
def test_interval_is_exact(wrong: int, total: int, low: float, high: float):
    scores = np.arange(total) < wrong
    rates = rates_at(0.5, np.zeros(total, int), scores)
    assert rates["false_alarms"] == wrong / total
    assert (rates["false_alarms_lower"], rates["false_alarms_upper"]) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("labels", "known"), [([0, 0], {"false_alarms"}), ([1], {"misses"}), ([], set())])
def test_rate_of_no_images_does_not_exist(labels: list[int], known: set[str]):
    rates = rates_at(0.5, labels, [0.0] * len(labels))
    exists = {name for name, value in rates.items() if not math.isnan(value)}
    assert exists == {f"{rate}{bound}" for rate in known for bound in ("", "_lower", "_upper")}


def test_score_that_is_no_number_is_no_verdict():
    with pytest.raises(ValueError, match="not finite"):
        rates_at(0.5, [0, 0], [0.0, math.nan])
