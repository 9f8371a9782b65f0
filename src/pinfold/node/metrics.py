"""A process's own metrics registry and its Prometheus text."""

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)


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
