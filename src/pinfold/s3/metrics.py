"""What the front end counts, for Prometheus; the registry is the caller's."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Buckets of request times: from a cached read to a client's usual timeout."""


class S3Metrics:
    """Requests by operation: how many, with which status, how long until the answer began."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "pinfold_s3_requests",
            "Requests answered, by operation and status.",
            ("operation", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "pinfold_s3_request_seconds",
            "Time until an answer was ready to be sent, by operation.",
            ("operation",),
            buckets=SECONDS,
            registry=registry,
        )
        self._splitting = Gauge(
            "pinfold_s3_buckets_splitting",
            "Buckets known to be splitting a shard.",
            registry=registry,
        )
        self._splits = Counter(
            "pinfold_s3_splits", "Splits of shards finished by this process.", registry=registry
        )
        self._counters: dict[tuple[str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def watch_splitting(self, count: Callable[[], int]) -> None:
        """Ask this for the number of buckets that are splitting a shard."""
        self._splitting.set_function(count)

    def split(self) -> None:
        """Count one split that is done."""
        self._splits.inc()

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        counter = self._counters.get((operation, status))
        if counter is None:
            counter = self._requests.labels(operation, str(status))
            self._counters[operation, status] = counter
        counter.inc()
        histogram = self._histograms.get(operation)
        if histogram is None:
            histogram = self._histograms[operation] = self._seconds.labels(operation)
        histogram.observe(seconds)
