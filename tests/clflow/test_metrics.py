"""Metrics against scikit-learn, against a brute-force AUPRO, and against what must hold for any scores."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from clflow.errors import DataError
from clflow.metrics import (
    AUPRO_LIMITS,
    IMAGE_METRICS,
    METRICS,
    PIXEL_METRICS,
    PixelCounts,
    Truth,
    image_metrics,
    pixel_metrics,
)


def brute_force_aupro(masks: np.ndarray, maps: np.ndarray, limit: float) -> float:
    """The definition, read aloud: a loop over thresholds, images and regions."""
    regions = []
    for image, mask in enumerate(masks):
        # SciPy's stub does not say that a pair is returned.
        labelled, count = ndimage.label(mask, np.ones((3, 3)))  # type: ignore[misc]
        regions += [(image, labelled == number) for number in range(1, count + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        detected = maps >= threshold
        rates.append(float(detected[~masks].mean()))
        overlaps.append(float(np.mean([detected[image][region].mean() for image, region in regions])))
    area = 0.0
    for x0, x1, y0, y1 in zip(rates, rates[1:], overlaps, overlaps[1:], strict=False):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def sklearn_values(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        f1 = 2 * precision * recall / (precision + recall)
    auroc, ap = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    return float(auroc), float(ap), float(np.nanmax(f1))


def discs(images: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of up to two discs an image, every third image normal; maps that only half find them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    masks = np.zeros((images, size, size), bool)
    for mask in (mask for number, mask in enumerate(masks) if number % 3):
        for _ in range(2):
            y, x, radius = *rng.uniform(0, size, 2), rng.uniform(1, size / 6)
            mask |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return masks, (rng.normal(size=masks.shape) + 1.5 * masks).astype(np.float32)


@st.composite
def maps_with_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Tiny images with few distinct scores, so that ties within and between the classes are the rule."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)))
    masks = draw(npst.arrays(bool, shape))
    assume(masks.any() and not masks.all())
    levels = draw(st.integers(1, 12))
    return masks, draw(npst.arrays(np.int64, shape, elements=st.integers(-levels, levels))).astype(np.float32)


def test_names_are_complete_and_in_the_order_of_the_leaderboard() -> None:
    masks, maps = discs(4, 16, 0)
    assert tuple(pixel_metrics(masks, maps)) == PIXEL_METRICS
    assert tuple(image_metrics(masks.any(axis=(1, 2)), maps.max(axis=(1, 2)))) == IMAGE_METRICS
    assert METRICS == (
        "image_auroc", "image_ap", "image_f1max",
        "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro_30", "aupro_05",
    )  # fmt: skip


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_image_metrics_equal_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    labels = rng.integers(0, 2, 200)
    scores = (rng.normal(size=200) + labels).round(decimals)
    assert list(image_metrics(labels, scores).values()) == pytest.approx(sklearn_values(labels, scores), abs=1e-9)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_pixel_metrics_equal_scikit_learn_and_brute_force(decimals: int) -> None:
    masks, maps = discs(7, 24, decimals)
    maps = maps.round(decimals)
    expected = [*sklearn_values(masks.ravel(), maps.ravel())]
    expected += [brute_force_aupro(masks, maps, limit) for limit in AUPRO_LIMITS.values()]
    assert list(pixel_metrics(masks, maps).values()) == pytest.approx(expected, abs=1e-4)


@given(maps_with_masks())
def test_any_scores_equal_scikit_learn_and_brute_force(case: tuple[np.ndarray, np.ndarray]) -> None:
    masks, maps = case
    found = pixel_metrics(masks, maps)
    expected = [*sklearn_values(masks.ravel(), maps.ravel())]
    expected += [brute_force_aupro(masks, maps, limit) for limit in AUPRO_LIMITS.values()]
    assert list(found.values()) == pytest.approx(expected, abs=1e-6)
    assert all(0 <= value <= 1 for value in found.values())


@settings(max_examples=50)
@given(maps_with_masks(), st.integers(1, 3))
def test_maps_added_a_few_at_a_time_give_the_same(case: tuple[np.ndarray, np.ndarray], batch: int) -> None:
    masks, maps = case
    counts = PixelCounts.spanning(maps)
    for start in range(0, len(maps), batch):
        counts.add(Truth(masks[start : start + batch]), maps[start : start + batch])
    assert counts.metrics() == pytest.approx(pixel_metrics(masks, maps), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_neither_outliers_nor_units_cost_accuracy(scale: float, offset: float) -> None:
    masks, maps = discs(7, 24, 2)
    maps[0, 0, :2] = -500, 2000
    maps = ((maps.astype(np.float64) + offset) * scale).astype(np.float32)
    found = pixel_metrics(masks, maps)
    expected = [*sklearn_values(masks.ravel(), maps.ravel())]
    expected += [brute_force_aupro(masks, maps, limit) for limit in AUPRO_LIMITS.values()]
    assert list(found.values()) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=50)
@given(maps_with_masks(), st.randoms(use_true_random=False))
def test_order_of_images_and_scale_of_scores_do_not_matter(case: tuple[np.ndarray, np.ndarray], random) -> None:
    masks, maps = case
    order = random.sample(range(len(masks)), len(masks))
    stretched = (np.arctan(maps.astype(np.float64)) * 7 - 3).astype(np.float32)
    expected = pytest.approx(pixel_metrics(masks, maps), abs=1e-9)
    assert pixel_metrics(masks[order], maps[order]) == expected
    assert pixel_metrics(masks, stretched) == expected


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=30))
def test_image_scores_of_few_values_equal_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([int(label) for label, _ in rows]), np.array([score for _, score in rows])
    assume(0 < labels.sum() < len(labels))
    assert list(image_metrics(labels, scores).values()) == pytest.approx(sklearn_values(labels, scores), abs=1e-9)


def test_a_perfect_map_scores_one_everywhere() -> None:
    masks, _ = discs(6, 32, 1)
    assert pixel_metrics(masks, masks.astype(np.float32)) == dict.fromkeys(PIXEL_METRICS, 1.0)


def test_a_constant_map_is_chance() -> None:
    masks, _ = discs(6, 32, 1)
    found = pixel_metrics(masks, np.zeros(masks.shape, np.float32))
    share = masks.mean()
    assert found["pixel_auroc"] == 0.5
    assert found["pixel_ap"] == pytest.approx(share)
    assert found["pixel_f1max"] == pytest.approx(2 * share / (1 + share))
    assert found["aupro_30"] == pytest.approx(0.15)  # the diagonal: limit squared / 2, divided by the limit
    assert found["aupro_05"] == pytest.approx(0.025)


def test_a_reversed_map_scores_zero_where_it_can() -> None:
    masks, _ = discs(6, 32, 1)
    found = pixel_metrics(masks, -masks.astype(np.float32))
    assert (found["pixel_auroc"], found["aupro_30"], found["aupro_05"]) == (0.0, 0.0, 0.0)


def test_each_region_counts_the_same_whatever_its_size() -> None:
    mask = np.zeros((1, 20, 20), bool)
    mask[0, :10, :10] = True  # 100 pixels, missed
    mask[0, 15, 15] = True  # 1 pixel, found
    score = np.zeros(mask.shape, np.float32)
    score[0, 15, 15] = 1
    score[0, :10, :10] = -1
    assert pixel_metrics(mask, score)["aupro_30"] == pytest.approx(0.5)


def test_diagonal_neighbours_are_one_region_but_neighbouring_images_are_not() -> None:
    mask = np.zeros((2, 3, 3), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True  # one region of two pixels
    mask[1, 1, 1] = True  # another region, at the same place of the next image
    score = np.zeros(mask.shape, np.float32)
    score[0, 1, 1] = 2  # half of the first region
    score[0, 0, 0] = score[1, 1, 1] = -1
    assert pixel_metrics(mask, score)["aupro_30"] == pytest.approx(0.25)


def test_normal_images_enter_the_false_positive_rate() -> None:
    masks, maps = discs(6, 32, 2)
    noisy_normals = maps.copy()
    noisy_normals[~masks.any(axis=(1, 2))] += 4
    assert pixel_metrics(masks, noisy_normals)["aupro_30"] < pixel_metrics(masks, maps)["aupro_30"]


def test_arguments_are_left_as_they_were() -> None:
    masks, maps = discs(3, 16, 3)
    before = masks.copy(), maps.copy()
    pixel_metrics(masks, maps)
    np.testing.assert_array_equal(masks, before[0])
    np.testing.assert_array_equal(maps, before[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    masks, maps = discs(3, 16, 3)
    maps[0, 0, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        pixel_metrics(masks, maps)
    with pytest.raises(ValueError, match="not finite"):
        image_metrics([0, 1], [0.0, value])


def test_a_single_class_is_refused() -> None:
    empty, score = np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4), np.float32)
    with pytest.raises(DataError, match="No pixel of the test set is defective"):
        pixel_metrics(empty, score)
    with pytest.raises(DataError, match="No pixel of the test set is normal"):
        pixel_metrics(~empty, score)
    with pytest.raises(DataError, match="No image of the test set is defective"):
        image_metrics([0, 0], [0.1, 0.2])
    with pytest.raises(DataError, match="No image of the test set is normal"):
        image_metrics([1, 1], [0.1, 0.2])


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        pixel_metrics(np.zeros((1, 4, 4), bool), np.zeros((1, 4, 5), np.float32))
    with pytest.raises(ValueError, match="boolean"):
        # A wrong type on purpose.
        pixel_metrics(np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one length"):
        image_metrics([0, 1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="0 \\(normal\\) or 1"):
        image_metrics([0, 2], [0.1, 0.2])
