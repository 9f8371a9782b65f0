"""A process's own metrics registry and its Prometheus text."""

from collections.abc import Iterator

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
