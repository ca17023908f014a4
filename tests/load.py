"""Load on an endpoint: clients that post one image after the other, and what came of it.

``python -m tests.load http://127.0.0.1:8000/predict/bottle part.png --seconds 10 --clients 8``
"""

from __future__ import annotations

import argparse
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests


@dataclass(frozen=True)
class Load:
    """Seconds it lasted, latency of each answer in seconds, the answers in order of arrival, and what failed."""

    seconds: float
    latencies: list[float]
    answers: list[dict[str, Any]]
    failures: list[str]

    def __str__(self) -> str:
        p50, p99 = 1000 * np.quantile(self.latencies, [0.5, 0.99])
        return (
            f"{len(self.answers)} answers, {len(self.failures)} failures, {len(self.answers) / self.seconds:.1f} "
            f"images/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms"
        )


def load(url: str, image: bytes, clients: int, stop: threading.Event) -> Load:
    """Post an image with so many clients until ``stop`` is set. A failure is any answer but 200, or none."""
    latencies: list[float] = []
    answers: list[dict[str, Any]] = []
    failures: list[str] = []

    def client() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                begin = time.perf_counter()
                try:
                    response = session.post(url, data=image, timeout=60)
                    response.raise_for_status()
                except requests.RequestException as error:
                    failures.append(str(error))
                else:
                    latencies.append(time.perf_counter() - begin)
                    answers.append(response.json())

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(client) for _ in range(clients)]
        try:
            for future in futures:
                future.result()
        finally:
            stop.set()  # a caller that is interrupted waits for no client
    return Load(time.perf_counter() - begin, latencies, answers, failures)


def main() -> None:
    """Load for a while, and print throughput, latency and failures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("url")
    parser.add_argument("image", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    stop = threading.Event()
    threading.Timer(arguments.seconds, stop.set).start()
    print(load(arguments.url, arguments.image.read_bytes(), arguments.clients, stop))


if __name__ == "__main__":
    main()
