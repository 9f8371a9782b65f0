"""A process's own metrics registry and its Prometheus text."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pinfold.nbd.counters import Counters


def new_registry() -> CollectorRegistry:
    """A registry with the process's memory, processor time, open files and collections."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """The registry as Prometheus text (version 0.0.4)."""
    return generate_latest(registry)


class PressureCollector:
    """What a process has dropped to keep its queues within their limits."""

    def __init__(self, late: Mapping[str, int], copies_given_up: Callable[[], int]) -> None:
        self._late = late
        self._copies_given_up = copies_given_up

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's Collector."""
        late = CounterMetricFamily(
            "pinfold_rpc_requests_late",
            "Requests of other nodes not done because their deadline had passed.",
            labels=["operation"],
        )
        for operation, count in self._late.items():
            late.add_metric([operation], count)
        yield late
        yield CounterMetricFamily(
            "pinfold_blob_copies_given_up",
            "Copies of answered blobs given up because a device was too far behind.",
            value=self._copies_given_up(),
        )


class NbdCollector:
    """An NBD gateway's counters, read when they are asked for: counting itself is plain sums."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's Collector."""
        counters = self._counters
        yield GaugeMetricFamily(
            "pinfold_nbd_connections", "Clients attached now.", value=counters.connections
        )
        requests = CounterMetricFamily(
            "pinfold_nbd_requests", "Requests answered.", labels=["operation"]
        )
        requests.add_metric(["read"], counters.reads)
        requests.add_metric(["write"], counters.writes)
        requests.add_metric(["flush"], counters.flushes)
        yield requests
        yield CounterMetricFamily(
            "pinfold_nbd_errors", "Requests answered with an error.", value=counters.errors
        )
        yield CounterMetricFamily(
            "pinfold_nbd_payload_bytes", "Bytes read and written.", value=counters.payload_bytes
        )
