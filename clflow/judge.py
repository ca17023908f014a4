"""A trained detector or the graph that was exported from one, ready to score images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from clflow.export import holds_export, load
from clflow.methods.loading import load_detector

if TYPE_CHECKING:
    from clflow.calibration import Thresholds
    from clflow.model.detector import Detector


@dataclass(frozen=True)
class Judge:
    """Scores images and says which scores are anomalous.

    Attributes:
        score: images, RGB uint8 (B, S, S, 3), to score maps (B, h, w) and image scores (B,).
        image_size: S, in pixels.
        thresholds: of the scores.
    """

    score: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    image_size: int
    thresholds: Thresholds

    @classmethod
    def of_detector(cls, detector: Detector, device: torch.device) -> Judge:
        """From a detector, which is moved to the device."""
        detector.to(device)

        def score(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            maps, scores = detector(torch.from_numpy(images).to(device))
            return maps.cpu().numpy(), scores.cpu().numpy()

        return cls(score, detector.image_size, detector.thresholds)

    @classmethod
    def of_graph(cls, folder: Path) -> Judge:
        """From the folder of a graph.

        Raises:
            DataError, ParameterError: see `clflow.export.load`.
        """
        graph = load(folder)

        def score(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = graph(images)
            return found.maps, found.scores

        return cls(score, graph.image_size, graph.thresholds)

    @classmethod
    def of_folder(cls, folder: Path, device: torch.device) -> Judge:
        """From the folder of a detector or of a graph; the device is for detectors.

        Raises:
            ClflowError: see `clflow.methods.loading.load_detector` and `clflow.export.load`.
        """
        return cls.of_graph(folder) if holds_export(folder) else cls.of_detector(load_detector(folder), device)


def best_device() -> torch.device:
    """The first CUDA device, where there is one; else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
