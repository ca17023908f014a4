"""Prometheus metrics of the endpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest

from pipelines.inference.serving.messages import Answer, State

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_CLIENT_GONE = 499  # as nginx counts a client that did not wait for its answer


class Metrics:
    """Counters of one gateway. Dataset and category are labels of all but the batches, which categories share."""

    def __init__(self, dataset: str):
        self._dataset = dataset
        self._registry = registry = CollectorRegistry()
        labels = ("dataset", "category")
        self._requests = Counter("clflow_requests", "Requests by HTTP status.", (*labels, "status"), registry=registry)
        self._seconds = Histogram(
            "clflow_request_seconds", "Time to an answer.", labels, buckets=_SECONDS, registry=registry
        )
        self._scores = Summary("clflow_score", "Image scores.", labels, registry=registry)
        self._anomalous = Counter("clflow_anomalous", "Images called anomalous.", labels, registry=registry)
        self._batch = Histogram(
            "clflow_batch_size",
            "Images scored together with each image, itself included.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self._model = Gauge(
            "clflow_model_info", "1 for the model that is loaded.", (*labels, "model", "version"), registry=registry
        )
        self._stale = Gauge(
            "clflow_champion_problem",
            "1 while the registry's champion is unavailable or cannot be loaded.",
            labels,
            registry=registry,
        )

    @contextmanager
    def request(self, category: str) -> Iterator[None]:
        """Time and count what is done for one request."""
        begin, status = time.perf_counter(), _CLIENT_GONE
        try:
            yield
            status = 200
        except HTTPException as error:
            status = error.status_code
            raise
        except Exception:
            status = 500
            raise
        finally:
            self._requests.labels(self._dataset, category, status).inc()
            self._seconds.labels(self._dataset, category).observe(time.perf_counter() - begin)

    def answer(self, category: str, answer: Answer) -> None:
        """Count an answer."""
        labels = self._dataset, category
        self._scores.labels(*labels).observe(answer.score)
        self._anomalous.labels(*labels).inc(answer.anomalous)
        self._batch.observe(answer.batch)

    def text(self, states: dict[str, State]) -> bytes:
        """All metrics in Prometheus' text format."""
        self._model.clear()
        for category, state in states.items():
            labels = self._dataset, category
            self._stale.labels(*labels).set(state.problem is not None)
            if state.version is not None:
                self._model.labels(*labels, state.model, state.version).set(1)
        return generate_latest(self._registry)
