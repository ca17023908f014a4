"""How well a detector tells the test images of a folder apart."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from clflow.api.detector import Detector, Prediction
from clflow.config.layers import BASE, packaged
from clflow.data.images import read_mask
from clflow.data.own import OwnImages, find_test_images
from clflow.metrics import PixelCounts, Truth, image_metrics
from clflow.rates import rates_at

_BATCH = 16


def evaluate(detector: Detector, folder: str | os.PathLike[str]) -> dict[str, float]:
    """Metrics of a detector on test images that somebody has judged.

    Maps and masks are compared at the detector's image size. A defective image without a mask counts for the image
    metrics alone.

    Args:
        detector: to be measured.
        folder: with ``test/good``, ``test/<defect>`` and, for pixel metrics, ``ground_truth/<defect>``.

    Returns:
        the values of `clflow.metrics.IMAGE_METRICS`, those of `clflow.rates.AT_THRESHOLD`, and, with any mask, those of
        `clflow.metrics.PIXEL_METRICS`.

    Raises:
        DataError: there are no test images, all are normal or all defective, or one is damaged.
    """
    found = find_test_images(Path(folder))
    rows = found.rows
    predictions = detector.predict([found.folder / path for path in rows["path"]])
    labels, scores = rows["label"].to_numpy(), np.array([prediction.score for prediction in predictions])
    metrics = image_metrics(labels, scores) | rates_at(detector.threshold, labels, scores)
    if any(rows["mask"]):
        metrics |= _pixel_metrics(found, predictions, detector.image_size)
    return metrics


def _pixel_metrics(found: OwnImages, predictions: list[Prediction], size: int) -> dict[str, float]:
    rows, threshold = found.rows, packaged(BASE).tree["protocol"]["mask_threshold"]
    counts = PixelCounts.spanning(np.stack([prediction.map_of(size, size) for prediction in predictions]))
    with_truth = np.flatnonzero((rows["label"] == 0) | (rows["mask"] != ""))
    for start in range(0, len(with_truth), _BATCH):
        batch = with_truth[start : start + _BATCH]
        masks = np.zeros((len(batch), size, size), bool)
        for mask, file in zip(masks, rows["mask"].iloc[batch], strict=True):
            if file:
                mask[:] = read_mask(found.folder / file, size, threshold)
        counts.add(Truth(masks), np.stack([predictions[i].map_of(size, size) for i in batch]))
    return counts.metrics()
