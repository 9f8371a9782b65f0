"""Where a storage node meets its care workers: what they are made of, and what is told of them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pinfold.care.host import Care
from pinfold.cluster.groups.service import GroupService
from pinfold.cluster.map import BLOBS, METADATA
from pinfold.device.api import Device
from pinfold.model.ids import DeviceId, GroupId, NodeName
from pinfold.node.context import NodeContext
from pinfold.node.gateway import Gateway


def new_care(
    context: NodeContext,
    gateway: Gateway,
    groups: GroupService,
    devices: Mapping[DeviceId, Device],
) -> Care:
    """The workers of this node, bound and not started; their metrics are registered."""

    def group_ids() -> range:
        return range(1 << context.map.get().policies[METADATA].part_power)

    def storage() -> set[NodeName]:
        return {NodeName(device.node) for device in context.map.get().devices}

    def load() -> float:
        """The fullest journal: clients whose writes come faster than devices apply them."""
        limit = context.settings.device.unapplied_bytes
        return max((one.status().journal_bytes / limit for one in devices.values()), default=0.0)

    care = Care(
        context.env,
        context.peers,
        context.dispatcher,
        groups,
        gateway.rows,
        devices,
        placement=gateway.placements.following(BLOBS),
        group_ids=lambda: [GroupId(number) for number in group_ids()],
        storage=storage,
        settings=context.settings.care,
        load=load,
    )
    context.metrics.register(CareCollector(care.status))
    return care


class CareCollector:
    """A storage node's care metrics, read from the workers' status when they are asked for."""

    def __init__(self, status: Callable[[], list[dict[str, Any]]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's Collector."""
        workers = self._status()

        def gauge(name: str, text: str, field: str) -> Metric:
            found = GaugeMetricFamily(f"pinfold_care_{name}", text, labels=["worker"])
            for worker in workers:
                found.add_metric([worker["name"]], worker[field])
            return found

        def counter(name: str, text: str, field: str) -> Metric:
            found = CounterMetricFamily(f"pinfold_care_{name}", text, labels=["worker"])
            for worker in workers:
                found.add_metric([worker["name"]], worker[field])
            return found

        yield gauge("queued", "Jobs found and not done.", "queued")
        yield gauge("queued_bytes", "Bytes that they will move.", "queued_bytes")
        yield counter("done", "Jobs done.", "done")
        yield counter("bytes", "Bytes moved by them.", "done_bytes")
        yield counter("failed", "Jobs given up for now.", "failed")
        for worker in workers:
            if "blobs" in worker:
                yield GaugeMetricFamily(
                    "pinfold_care_blobs_lacking_copies",
                    "Blobs found with fewer copies than they should have.",
                    value=worker["blobs"],
                )
                yield GaugeMetricFamily(
                    "pinfold_care_blobs_with_one_copy",
                    "Those that one more loss would destroy.",
                    value=worker["single"],
                )
            if "collected" in worker:
                yield CounterMetricFamily(
                    "pinfold_care_orphans_collected",
                    "Blobs removed because no row named them.",
                    value=worker["collected"],
                )
