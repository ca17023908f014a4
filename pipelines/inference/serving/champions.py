"""What is served: the champions of several categories, kept up to date with the registry, or a detector in a folder."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from clflow.features.extraction import Features
from clflow.methods.loading import load_detector
from clflow.model.detector import Detector
from pipelines.inference import watch
from pipelines.inference.serving.messages import State
from pipelines.registry.locate import SCHEME, champion_version, download, registered_name

_log = logging.getLogger("ray.serve")  # it ends in the log of the replica


@dataclass(frozen=True)
class Champion:
    """A version of a registered model, ready to score."""

    model: str
    version: int
    since: datetime
    detector: Detector
    watched: watch.Model


class Served(Protocol):
    """What a scorer asks for the detectors that it scores with."""

    def of(self, category: str) -> Champion | None:
        """The detector of a category, None if none was loaded yet."""
        ...

    def state(self) -> dict[str, State]:
        """What is loaded, by category."""
        ...

    def refresh(self) -> None:
        """Load what is new; what cannot be loaded is in the state."""
        ...


class FolderModel:
    """A detector in a folder, which never changes; its version is 0."""

    def __init__(self, folder: Path, category: str, device: torch.device):
        self._folder, self._category, self._device = folder, category, device
        self._loaded: Champion | None = None
        self._problem: str | None = None

    def of(self, category: str) -> Champion | None:
        """See `Served.of`."""
        return self._loaded if category == self._category else None

    def state(self) -> dict[str, State]:
        """See `Served.state`."""
        loaded = self._loaded
        version, since = (loaded.version, loaded.since) if loaded else (None, None)
        return {self._category: State(str(self._folder), version, since, self._problem)}

    def refresh(self) -> None:
        """See `Served.refresh`."""
        if self._loaded is None:
            try:
                watched = watch.Model.of_folder(self._folder)
                detector = load_detector(self._folder).to(self._device)
                self._loaded = Champion(str(self._folder), 0, datetime.now(UTC), detector, watched)
                self._problem = None
            except Exception as error:  # libraries raise types of their own, and Ray would try again without end
                self._problem = " ".join(str(error).split()) or type(error).__name__


class Champions:
    """The champion of each category; `refresh` replaces those whose alias has moved.

    A champion that is unavailable or cannot be loaded leaves the one before it in place. A replaced champion stays
    loaded as long as a request holds it.
    """

    def __init__(self, dataset: str, categories: Sequence[str], tracking_uri: str, device: torch.device):
        self._names = {category: registered_name(dataset, category) for category in categories}
        self._uri = tracking_uri
        self._device = device
        self._loaded: dict[str, Champion] = {}
        self._problems: dict[str, str] = {}

    def of(self, category: str) -> Champion | None:
        """The champion of a category, None if none was loaded yet."""
        return self._loaded.get(category)

    def state(self) -> dict[str, State]:
        """What is loaded, by category."""
        states = {}
        for category, name in self._names.items():
            champion, problem = self._loaded.get(category), self._problems.get(category)
            version, since = (champion.version, champion.since) if champion else (None, None)
            states[category] = State(name, version, since, problem)
        return states

    def refresh(self) -> None:
        """Ask the registry for the champions, and load those that are new."""
        for category, name in self._names.items():
            try:
                version = champion_version(name, self._uri)
                champion = self._loaded.get(category)
                if champion is None or champion.version != version:
                    self._loaded[category] = self._load(name, version)
                self._problems.pop(category, None)
            except Exception as error:  # whatever is wrong with one version, the others and the last one are in use
                problem = " ".join(str(error).split()) or type(error).__name__
                if self._problems.get(category) != problem:
                    _log.warning("%s: %s", category, problem)
                self._problems[category] = problem

    def _load(self, name: str, version: int) -> Champion:
        with tempfile.TemporaryDirectory() as into:
            folder = download(f"{SCHEME}{name}/{version}", self._uri, Path(into))
            watched = watch.Model.of_folder(folder)
            shared = [champion.detector.features for champion in self._loaded.values()]
            detector = load_detector(folder, shared).to(self._device)
        return Champion(name, version, datetime.now(UTC), detector, watched)


def score(champions: Sequence[Champion], images: Sequence[np.ndarray]) -> list[tuple[float, np.ndarray]]:
    """Image score and score map (h, w) of each image, (S, S, 3) uint8, by its champion.

    Images whose champions share their features and a size go through the backbone together, whatever their category.
    """
    batches: dict[tuple[Features, int], list[int]] = {}
    for i, champion in enumerate(champions):
        detector = champion.detector
        batches.setdefault((detector.features, detector.image_size), []).append(i)
    results: dict[int, tuple[float, np.ndarray]] = {}
    with torch.inference_mode():
        for (shared, _), members in batches.items():
            pixels = torch.from_numpy(np.stack([images[i] for i in members]))
            features = shared.of_images(pixels.to(shared.backbone.mean.device))
            for detector in {champions[i].detector for i in members}:
                places = [place for place, i in enumerate(members) if champions[i].detector is detector]
                maps, image_scores = detector.scorer(features[places])
                scored = zip(image_scores.tolist(), maps.cpu().numpy(), strict=True)
                results.update(zip((members[place] for place in places), scored, strict=True))
    return [results[i] for i in range(len(images))]
