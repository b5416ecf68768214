"""What `/metrics` tells Prometheus: requests, refusals and latency."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Measures:
    """Counters since the start of the service. They hold nothing of what was sent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "ufgvc", "registry": self.registry}
        self.requests = Counter("requests", "requests to /predict by HTTP status", ["status"], **options)
        self.refused = Counter(
            "refused", "requests to /predict without an answer, by HTTP status", ["status"], **options
        )
        self.photographs = Counter("photographs", "photographs that were answered", **options)
        self.in_work = Gauge("requests_in_work", "requests that are read, wait or are answered now", **options)
        self.latency = Histogram(
            "latency_seconds", "from the request's head to its answer, of answered requests", buckets=SECONDS, **options
        )

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Counts an answered request and how long the block took; nothing if it raises."""
        started = time.perf_counter()
        self.in_work.inc()
        try:
            yield
        finally:
            self.in_work.dec()
        self.latency.observe(time.perf_counter() - started)
        self.requests.labels("200").inc()

    def refuse(self, status: int) -> None:
        """Counts a request that was not answered."""
        self.requests.labels(str(status)).inc()
        self.refused.labels(str(status)).inc()

    def to_text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
