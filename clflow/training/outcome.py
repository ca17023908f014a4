"""Files of a finished training: detector, learning curves, scores of calibration and held-out images, figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from clflow.calibration import Rank
from clflow.files import write_json
from clflow.training.validation import score_features

if TYPE_CHECKING:
    from clflow.model.detector import Detector
    from clflow.training.data import FitData

OUTCOME_FILE = "outcome.json"
HISTORY_FILE = "history.csv"
HELD_OUT_FILE = "held_out.csv"


def save_outcome(
    folder: Path,
    detector: Detector,
    history: list[dict[str, float]],
    data: FitData,
    false_alarm_rate: float,
    device: torch.device,
    arithmetic: str,
) -> None:
    """Write a trained detector, and what there is to say of its training, into a folder.

    Beside the detector's own files: `HISTORY_FILE`, a row per evaluation; `HELD_OUT_FILE`, ``label`` and
    ``image_score`` of the calibration images and of held-out synthetic anomalies; and `OUTCOME_FILE`.

    Args:
        folder: exists.
        detector: as trained.
        history: its learning curves.
        data: that it was trained on.
        false_alarm_rate: that its thresholds were asked to keep.
        device: that it was trained on.
        arithmetic: see `clflow.precision.training_arithmetic`.
    """
    detector.save(folder)
    pd.DataFrame(history).to_csv(folder / HISTORY_FILE, index=False)
    limits = detector.thresholds
    normal, rank = limits.calibration_scores, Rank.keeping(false_alarm_rate, len(limits.calibration_scores))
    synthetic = score_features(detector.scorer, data.held_out_synthetic, device)[1].tolist()
    held_out = {"label": [0] * len(normal) + [1] * len(synthetic), "image_score": [*normal, *synthetic]}
    pd.DataFrame(held_out).to_csv(folder / HELD_OUT_FILE, index=False)
    outcome = {
        "train_seconds": history[-1]["seconds"],
        "params_added": detector.parameter_count(),
        "image_threshold": limits.image,
        "pixel_threshold": limits.pixel,
        "median_pixel_score": limits.median_pixel_score,
        "calibration_images": rank.images,
        "expected_false_alarm_rate": rank.rate,
        "device": device_name(device),
        "arithmetic": arithmetic,
    }
    write_json(folder / OUTCOME_FILE, outcome)


def device_name(device: torch.device) -> str:
    """What computed: the accelerator's name, or the vector instructions that a CPU's kernels use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"
