"""The judgement of a model: floors of its metrics, its latency here, and its gain over the champion."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clflow.bootstrap import Gain, paired_gain
from clflow.config.schema import Promotion
from clflow.errors import PromotionError
from clflow.methods.loading import load_detector
from clflow.model.detector import Detector
from clflow.score import image_batches
from pipelines.registry.evidence import Evidence

_WARM_UPS, _PASSES = 3, 20
_BATCH = 16


@dataclass(frozen=True)
class Judgement:
    """Whether a model may become champion, and why.

    Attributes:
        wins: it may.
        reasons: what speaks against it, or else what speaks for it.
        gain: in image AUROC over the champion; None if there is no champion.
        latency_ms: median per image.
        machine: where that was measured.
    """

    wins: bool
    reasons: tuple[str, ...]
    gain: Gain | None
    latency_ms: float
    machine: str


def judge(evidence: Evidence, folder: Path, champion: pd.DataFrame | None, rules: Promotion) -> Judgement:
    """Judge a model.

    Args:
        evidence: for it.
        folder: its detector.
        champion: the scores of the champion, on the same test images.
        rules: floors, limit of the latency, margin and confidence.

    Raises:
        PromotionError: the scores are not of the same images.
        WeightsError: the weights of the detector's backbone are not here.
    """
    latency, machine = measure_latency(load_detector(folder)), describe_machine()
    against = _below_floors(evidence.metrics, rules.floors)
    if latency > rules.latency_ms:
        against.append(f"latency {latency:.1f} ms is above {rules.latency_ms:g} ms ({machine})")
    if champion is None:
        return Judgement(not against, tuple(against or ["there was no champion"]), None, latency, machine)
    gain = compare(evidence.scores, champion, rules)
    words = (
        f"gain in image AUROC {gain.mean:+.4f} ({rules.confidence:.0%} bounds {gain.lower:+.4f} and {gain.upper:+.4f})"
    )
    if gain.lower <= rules.margin:
        against.append(f"{words}: lower bound is not above {rules.margin:g}")
    return Judgement(not against, tuple(against or [words]), gain, latency, machine)


def compare(scores: pd.DataFrame, champion: pd.DataFrame, rules: Promotion) -> Gain:
    """The gain in image AUROC over the champion, from tables of ``path``, ``label`` and ``image_score``.

    Raises:
        PromotionError: the tables are not of the same images.
    """
    both = scores.merge(champion, on=["path", "label"], suffixes=("", "_champion"), validate="one_to_one")
    if not len(both) == len(scores) == len(champion):
        raise PromotionError("the champion's scores are of other images; evaluate both on the same test images.")
    return paired_gain(both["label"], both["image_score"], both["image_score_champion"], rules.margin, rules.confidence)


def score_again(folder: Path, images: pd.DataFrame, data: Path) -> pd.DataFrame:
    """The images (``path``, ``label``) of a dataset's folder with the scores of a detector.

    Raises:
        WeightsError: the weights of the detector's backbone are not here.
    """
    detector = load_detector(folder)
    batches = image_batches([data / path for path in images["path"]], detector.image_size, _BATCH)
    with torch.inference_mode():
        scores = [detector(batch)[1].numpy() for batch in batches]
    return images.loc[:, ["path", "label"]].assign(image_score=np.concatenate(scores))


def measure_latency(detector: Detector) -> float:
    """Median milliseconds from one image, uint8 and of the detector's size, to its score map and score."""
    size = detector.image_size
    image_bhwc = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8)
    seconds = []
    with torch.inference_mode():
        for _ in range(_WARM_UPS + _PASSES):
            begin = time.perf_counter()
            detector(image_bhwc)
            seconds.append(time.perf_counter() - begin)
    return 1000 * statistics.median(seconds[_WARM_UPS:])


def describe_machine() -> str:
    """What a latency depends on, in words."""
    return f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads"


def _below_floors(metrics: dict[str, float], floors: dict[str, float]) -> list[str]:
    reasons = []
    for name, floor in floors.items():
        if name not in metrics:
            reasons.append(f"{name} does not exist, but must be at least {floor:g}")
        elif metrics[name] < floor:
            reasons.append(f"{name} {metrics[name]:.4f} is below {floor:g}")
    return reasons
