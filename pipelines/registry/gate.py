"""The promotion gate: floors and ceilings of metrics, latency on this machine, gain over the champion."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clflow.bootstrap import Gain, paired_gain
from clflow.config.schema import VALIDATION, Promotion
from clflow.errors import PromotionError
from clflow.files import read_json
from clflow.methods.loading import load_detector
from clflow.model.detector import Detector
from clflow.score import image_batches
from clflow.training.outcome import HELD_OUT_FILE
from pipelines.registry.evidence import Evidence
from pipelines.workspace.cells import MARKER

_WARM_UPS, _PASSES = 3, 20
_BATCH = 16


@dataclass(frozen=True)
class Judgement:
    """Whether a model may become champion, and why.

    Attributes:
        wins: it may become champion.
        reasons: against it, or if there are none, for it.
        gain: in AUROC over the champion; None without a champion.
        latency_ms: median per image.
        machine: on which latency was measured.
        forced: reason given by the person who overruled the gate; empty if nobody did.
    """

    wins: bool
    reasons: tuple[str, ...]
    gain: Gain | None
    latency_ms: float
    machine: str
    forced: str = ""

    def overruled(self, why: str, problems: tuple[str, ...]) -> Judgement:
        """The judgement after a person overruled the gate, and ``problems`` before it; both stay among the reasons."""
        against = (*problems, *(() if self.wins else self.reasons))
        others = tuple(f"despite: {each}" for each in against) or self.reasons
        return replace(self, wins=True, reasons=(f"forced: {why}", *others), forced=why)


@dataclass(frozen=True)
class Comparison:
    """Scores by which a model is compared with the champion.

    Attributes:
        figure: name of the metric.
        scores: ``path``, ``label`` and ``image_score`` of images.
        champion: the same by the champion.
        note: what there is to say of it.
    """

    figure: str
    scores: pd.DataFrame
    champion: pd.DataFrame
    note: str = ""


def judge(evidence: Evidence, folder: Path, comparison: Comparison | None, rules: Promotion) -> Judgement:
    """Judge a model.

    Args:
        evidence: of the model.
        folder: of its detector.
        comparison: with the champion, if there is one.
        rules: floors, ceilings, limit of the latency, margin and confidence.

    Raises:
        PromotionError: the scores are not of the same images.
        WeightsError: the weights of the detector's backbone are not here.
    """
    latency, machine = measure_latency(load_detector(folder)), describe_machine()
    against = [*_below_floors(evidence, rules.floors), *_above_ceilings(evidence, rules.ceilings)]
    if latency > rules.latency_ms:
        against.append(f"latency {latency:.1f} ms is above {rules.latency_ms:g} ms ({machine})")
    if comparison is None:
        return Judgement(not against, tuple(against or ["there was no champion"]), None, latency, machine)
    gain = compare(comparison, rules)
    bounds = f"{rules.confidence:.0%} bounds {gain.lower:+.4f} and {gain.upper:+.4f}"
    words = f"gain in {comparison.figure} {gain.mean:+.4f} ({bounds})"
    if gain.lower <= rules.margin:
        against.append(f"{words}: lower bound is not above {rules.margin:g}")
    reasons = (*(against or [words]), *([comparison.note] if comparison.note else []))
    return Judgement(not against, reasons, gain, latency, machine)


def compare(comparison: Comparison, rules: Promotion) -> Gain:
    """The gain in AUROC over the champion.

    Raises:
        PromotionError: the scores are not of the same images.
    """
    scores, champion = comparison.scores, comparison.champion
    both = scores.merge(champion, on=["path", "label"], suffixes=("", "_champion"), validate="one_to_one")
    if not len(both) == len(scores) == len(champion):
        raise PromotionError("the champion's scores are of other images; evaluate both on the same test images.")
    return paired_gain(both["label"], both["image_score"], both["image_score_champion"], rules.margin, rules.confidence)


def on_held_out_images(folder: Path, champion: Path) -> Comparison | None:
    """Compare two detectors on the validation images (held-out normal and synthetic) of both; None if these differ."""
    if _validated_on(folder) != _validated_on(champion):
        return None
    scores, of_champion = _held_out(folder), _held_out(champion)
    synthetic = scores["label"].tolist().count(1)
    figure = f"AUROC of {len(scores) - synthetic} held-out normal images and {synthetic} synthetic anomalies"
    return Comparison(figure, scores, of_champion)


def _validated_on(folder: Path) -> tuple[object, ...]:
    """Hashes and share that determine a detector's validation images."""
    record = read_json(folder / MARKER)
    return record["data_hash"], record["synthetic_hash"], record["protocol"]["holdout"]


def _held_out(folder: Path) -> pd.DataFrame:
    """Scores of validation images; their rows serve as paths."""
    table = pd.read_csv(folder / HELD_OUT_FILE)
    return table.assign(path=table.index)


def score_again(folder: Path, images: pd.DataFrame, data: Path) -> pd.DataFrame:
    """Score images (``path``, ``label``) below a dataset's folder by a detector.

    Raises:
        WeightsError: the weights of the detector's backbone are not here.
    """
    detector = load_detector(folder)
    batches = image_batches([data / path for path in images["path"]], detector.image_size, _BATCH)
    with torch.inference_mode():
        scores = [detector(batch)[1].numpy() for batch in batches]
    return images.loc[:, ["path", "label"]].assign(image_score=np.concatenate(scores))


def measure_latency(detector: Detector) -> float:
    """Median milliseconds to score one uint8 image of the detector's size."""
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
    """Description of this machine, beside which a latency is stored."""
    return f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads"


def _below_floors(evidence: Evidence, floors: dict[str, float]) -> list[str]:
    reasons = []
    for name, floor in floors.items():
        if name not in evidence.metrics:
            reasons.append(f"{_absent(name, evidence)}, but must be at least {floor:g}")
        elif evidence.metrics[name] < floor:
            reasons.append(f"{name} {evidence.metrics[name]:.4f} is below {floor:g}")
    return reasons


def _above_ceilings(evidence: Evidence, ceilings: dict[str, float]) -> list[str]:
    reasons = []
    for name, ceiling in ceilings.items():
        if name not in evidence.metrics:
            reasons.append(f"{_absent(name, evidence)}, but must be at most {ceiling:g}")
        elif evidence.metrics[name] > ceiling:
            rate = name.removesuffix("_upper")
            lower, upper = evidence.metrics[f"{rate}_lower"], evidence.metrics[f"{rate}_upper"]
            value = f"{name} {evidence.metrics[name]:.4f} (95 % interval {lower:.4f} to {upper:.4f})"
            reasons.append(f"{value} is above {ceiling:g}")
    return reasons


def _absent(name: str, evidence: Evidence) -> str:
    why = "" if name in VALIDATION else evidence.missing
    return f"{name} does not exist ({why})" if why else f"{name} does not exist"
