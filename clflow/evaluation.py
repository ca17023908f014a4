"""Scoring test images with trained detectors; features that several share are computed once per image."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from clflow.score import image_batches

if TYPE_CHECKING:
    from torch import nn

    from clflow.model.detector import Detector

_BATCH = 16


@dataclass
class Evaluation:
    """A detector under evaluation, and its scores of the images so far.

    Attributes:
        detector: on the device that computes.
        eval_scorers: its scorer with the weights of each evaluation of its training, by step; may be empty.
        maps: score maps (B, h, w) of each batch.
        scores: image scores (B,) of each batch.
        eval_scores: the same by the scorers of ``eval_scorers``.
        seconds: spent on it, its share of common features included in full.
    """

    detector: Detector
    eval_scorers: dict[int, nn.Module]
    maps: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    eval_scores: defaultdict[int, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    seconds: float = 0.0


@torch.inference_mode()
def evaluate(evaluations: Sequence[Evaluation], paths: Sequence[Path], device: torch.device) -> None:
    """Score images with detectors of one image size, and add the scores to each evaluation.

    Raises:
        DataError: an image is missing or damaged.
    """
    extractors = {evaluation.detector.features for evaluation in evaluations}
    spent: defaultdict[object, float] = defaultdict(float)  # seconds, by features and by detector
    for number, images in enumerate(image_batches(paths, evaluations[0].detector.image_size, _BATCH)):
        if number == 0:  # on first use kernels are loaded and chosen, which no method is to be charged with
            warm = {shared: shared.of_images(images.to(device)) for shared in extractors}
            for evaluation in evaluations:
                evaluation.detector.scorer(warm[evaluation.detector.features])
        features = {}
        for shared in extractors:
            with _counted(spent, shared, device):
                features[shared] = shared.of_images(images.to(device))
        for evaluation in evaluations:
            seen = features[evaluation.detector.features]
            with _counted(spent, evaluation.detector, device):
                maps, scores = evaluation.detector.scorer(seen)
            evaluation.maps.append(maps.cpu().numpy())
            evaluation.scores.append(scores.cpu().numpy())
            for step, scorer in evaluation.eval_scorers.items():
                evaluation.eval_scores[step].append(scorer(seen)[1].cpu().numpy())
    for evaluation in evaluations:
        evaluation.seconds = spent[evaluation.detector.features] + spent[evaluation.detector]


@contextmanager
def _counted(spent: defaultdict[object, float], what: object, device: torch.device) -> Iterator[None]:
    """Add the seconds inside to what was spent on something."""
    begin = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    spent[what] += time.perf_counter() - begin
