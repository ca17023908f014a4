"""The scorer: decodes images, scores them in dynamic batches, follows the champion aliases, and watches the scores."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from PIL import Image
from ray import serve

from clflow import heatmap
from clflow.calibration import Thresholds
from clflow.config.schema import Serving
from clflow.data.images import open_rgb, resize_to_square
from clflow.errors import DataError
from clflow.heatmap import Picture
from clflow.judge import best_device
from clflow.regions import find_regions
from clflow.score import upsample
from pipelines.inference import watch
from pipelines.inference.serving.champions import Champion, Served, score
from pipelines.inference.serving.messages import Added, Answer, Asked, Refusal, State
from pipelines.workspace.paths import Workspace

_FLUSH_SECONDS = 5.0

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class _Job:
    """An image and the champion that will judge it, whatever the alias does meanwhile."""

    champion: Champion
    pixels: Picture


@dataclass(frozen=True)
class _Scored:
    score: float
    score_map: np.ndarray
    batch: int


class Scorer:
    """A replica. It tries to load all champions before Ray sends requests to it; a category without one is refused.

    Args:
        serve_from: makes what is served on a device.
        workspace: where scores are watched.
        serving: batching and polling.
        threads: of torch.
    """

    def __init__(
        self,
        serve_from: Callable[[torch.device], Served],
        workspace: Workspace,
        serving: Serving,
        threads: int,
    ):
        self._stopped = threading.Event()
        Image.MAX_IMAGE_PIXELS = None  # the gateway lets none pass that is larger than the parameters allow
        torch.set_num_threads(threads)
        device = best_device()
        self._champions = serve_from(device)
        self._watch = workspace.watch
        self._scores: SimpleQueue[tuple[watch.Model, str, float]] = SimpleQueue()
        batching: Any = self._batch  # the decorator adds what its types do not show
        batching.set_max_batch_size(serving.batch)
        batching.set_batch_wait_timeout_s(serving.wait_ms / 1000)
        self._champions.refresh()
        self._repeat(self._champions.refresh, serving.poll_seconds)
        self._repeat(self._flush, _FLUSH_SECONDS)

    async def score(self, category: str, body: bytes, asked: Asked) -> Answer | Refusal:
        """Judge an image file by the champion of its category, at its stored threshold unless another is asked for."""
        champion = self._champions.of(category)
        if champion is None:
            return Refusal(503, f"the champion of {category} is not loaded; GET /models says why.")
        detector = champion.detector
        try:
            applied = detector.thresholds.image_at(asked.threshold, asked.false_alarm_rate)
            pixels, size = await asyncio.to_thread(_decode, body, detector.image_size)
        except DataError as error:
            return Refusal(422, str(error))
        scored = await self._batch(_Job(champion, pixels))
        self._scores.put((champion.watched, watch.content(pixels), scored.score))
        return Answer(
            model=champion.model,
            version=champion.version,
            score=scored.score,
            threshold=applied,
            anomalous=scored.score > applied,
            pixel_threshold=detector.thresholds.pixel,
            batch=scored.batch,
            added=await asyncio.to_thread(_add, asked, detector.thresholds, pixels, scored.score_map, size),
        )

    def state(self) -> dict[str, State]:
        """What is loaded, by category."""
        return self._champions.state()

    @serve.batch
    async def _batch(self, jobs: list[_Job]) -> list[_Scored]:
        # In a thread, so that the next images are decoded meanwhile.
        scored = await asyncio.to_thread(score, [job.champion for job in jobs], [job.pixels for job in jobs])
        return [_Scored(*result, len(jobs)) for result in scored]

    def _repeat(self, action: Callable[[], None], seconds: float) -> None:
        def loop() -> None:
            while not self._stopped.wait(seconds):
                action()

        threading.Thread(target=loop, daemon=True).start()

    def _flush(self) -> None:
        """Add the scores since the last time to the files that are watched."""
        fresh: dict[watch.Model, dict[str, float]] = {}
        try:
            while True:
                model, content, value = self._scores.get_nowait()
                fresh.setdefault(model, {})[content] = value
        except Empty:
            pass
        for model, scores in fresh.items():
            try:
                watch.record(self._watch, model, scores)
            except (OSError, DataError) as error:  # a full disk must not stop the line
                _log.warning("%d scores are not watched: %s", len(scores), error)

    def __del__(self) -> None:
        """Ray Serve calls this when a replica is to end."""
        self._stopped.set()
        self._flush()


def _decode(body: bytes, side: int) -> tuple[Picture, tuple[int, int]]:
    """An image as the detector sees it, and its own width and height."""
    image = open_rgb(io.BytesIO(body))
    return resize_to_square(image, side), image.size


def _add(asked: Asked, thresholds: Thresholds, pixels: Picture, score_map: np.ndarray, size: tuple[int, int]) -> Added:
    """What is asked for, of an image as the detector sees it, its score map, and its own width and height."""
    if not (asked.heat_map or asked.regions or asked.raw_map):
        return Added()
    whole = upsample(score_map[None], len(pixels))[0]
    picture, raw = io.BytesIO(), io.BytesIO()
    if asked.heat_map:
        overlay = heatmap.overlay(pixels, whole, thresholds.median_pixel_score, thresholds.pixel)
        heatmap.restore_aspect(overlay, *size).save(picture, format="PNG")
    if asked.raw_map:
        np.save(raw, score_map.astype(np.float32), allow_pickle=False)
    return Added(
        picture.getvalue() if asked.heat_map else None,
        tuple(find_regions(whole, thresholds.pixel, size)) if asked.regions else None,
        raw.getvalue() if asked.raw_map else None,
    )
