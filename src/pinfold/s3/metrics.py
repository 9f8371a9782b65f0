"""What the front end counts, for Prometheus; the registry is the caller's.

Requests are counted in plain numbers and told as metrics when somebody asks: the client library's
own counters take a lock and walk all buckets each time, which shows at 5,000 requests a second.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Buckets of request times: from a cached read to a client's usual timeout."""

_BOUNDS: Final = (*map(floatToGoString, SECONDS), "+Inf")


class S3Metrics:
    """Requests by operation: how many, with which status, how long until the answer began."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._times: dict[str, _Times] = {}
        self._splitting = Gauge(
            "pinfold_s3_buckets_splitting",
            "Buckets known to be splitting a shard.",
            registry=registry,
        )
        self._splits = Counter(
            "pinfold_s3_splits", "Splits of shards finished by this process.", registry=registry
        )
        registry.register(self)

    def watch_splitting(self, count: Callable[[], int]) -> None:
        """Ask this for the number of buckets that are splitting a shard."""
        self._splitting.set_function(count)

    def split(self) -> None:
        """Count one split that is done."""
        self._splits.inc()

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        requests, which = self._requests, (operation, status)
        requests[which] = requests.get(which, 0) + 1
        times = self._times.get(operation)
        if times is None:
            times = self._times[operation] = _Times()
        times.counts[bisect_left(SECONDS, seconds)] += 1
        times.total_s += seconds

    def totals(self) -> dict[str, int]:
        """Requests answered, and how many of them failed through no fault of the client."""
        failed = sum(count for (_, status), count in self._requests.items() if status >= 500)
        return {"requests": sum(self._requests.values()), "failed": failed}

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's Collector."""
        requests = CounterMetricFamily(
            "pinfold_s3_requests",
            "Requests answered, by operation and status.",
            labels=("operation", "status"),
        )
        for (operation, status), count in self._requests.items():
            requests.add_metric((operation, str(status)), count)
        yield requests
        seconds = HistogramMetricFamily(
            "pinfold_s3_request_seconds",
            "Time until an answer was ready to be sent, by operation.",
            labels=("operation",),
        )
        for operation, times in self._times.items():
            buckets = list(zip(_BOUNDS, accumulate(times.counts), strict=True))
            seconds.add_metric((operation,), buckets, times.total_s)
        yield seconds


class _Times:
    """The times of one operation's requests."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        """Requests that took at most so many seconds and more than the bound before."""
        self.total_s = 0.0
