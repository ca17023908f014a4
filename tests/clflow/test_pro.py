"""The drawn PRO curve against the metric that is its area."""

import numpy as np
import pytest

from clflow.metrics import AUPRO_LIMITS, PixelCounts, Truth
from clflow.pro import pro_curve


def counted(masks: np.ndarray, maps: np.ndarray) -> PixelCounts:
    counts = PixelCounts.spanning(maps)
    counts.add(Truth(masks), maps)
    return counts


@pytest.mark.parametrize(("metric", "limit"), AUPRO_LIMITS.items())
@pytest.mark.parametrize("decimals", [1, 6])
def test_area_is_the_metric(metric: str, limit: float, decimals: int) -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 32, 32), bool)
    masks[:2, 4:9, 6:20] = masks[2, 20:22, 3:6] = True
    maps = (rng.normal(size=masks.shape) + 1.5 * masks).round(decimals).astype(np.float32)
    counts = counted(masks, maps)
    rates, overlap = pro_curve(counts, limit, 1001)
    assert (rates[0], rates[-1]) == (0, limit) and (np.diff(overlap) >= 0).all()
    assert np.trapezoid(overlap, rates) / limit == pytest.approx(counts.metrics()[metric], abs=1e-3)


def test_perfect_maps_find_everything_without_a_false_alarm() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :3, :3] = True
    rates, overlap = pro_curve(counted(masks, masks.astype(np.float32)), 0.3, 11)
    assert len(rates) == 11 and overlap.tolist() == [1.0] * 11
