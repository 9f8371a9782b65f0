"""Where a storage node meets its care workers: what they are made of, and what is told of them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pinfold.care.host import Care
from pinfold.care.worker import Supervisor
from pinfold.cluster.groups.service import GroupService
from pinfold.cluster.map import BLOBS, METADATA
from pinfold.device.api import Device
from pinfold.env.tasks import TaskScope
from pinfold.model.ids import DeviceId, GroupId, NodeName
from pinfold.node.context import NodeContext
from pinfold.node.gateway import Gateway
from pinfold.volumes.leftovers import Drop, Leftovers
from pinfold.volumes.registry import Registry
from pinfold.volumes.row import INDEX_PLACE
from pinfold.volumes.tending import Tend, Tending


def new_care(
    context: NodeContext,
    gateway: Gateway,
    groups: GroupService,
    devices: Mapping[DeviceId, Device],
) -> Care:
    """The workers of this node for blobs, bound and not started."""

    def group_ids() -> range:
        return range(1 << context.map.get().policies[METADATA].part_power)

    def storage() -> set[NodeName]:
        return {NodeName(device.node) for device in context.map.get().devices}

    def load() -> float:
        """The fullest journal: clients whose writes come faster than devices apply them."""
        limit = context.settings.device.unapplied_bytes
        return max((one.status().journal_bytes / limit for one in devices.values()), default=0.0)

    return Care(
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


class VolumeCare:
    """The workers of one storage node that look after volumes; see `volumes.tending`."""

    def __init__(
        self,
        context: NodeContext,
        gateway: Gateway,
        groups: GroupService,
        devices: Mapping[DeviceId, Device],
    ) -> None:
        settings, care = context.settings.volumes, context.settings.care.worker
        rows, extents, placement = gateway.rows, gateway.extents, gateway.extent_placement
        index = gateway.membership.group_of

        def leads() -> bool:
            return index(INDEX_PLACE) in {bound.group for bound in groups.led()}

        tending = Tending(
            context.env,
            rows,
            extents,
            placement,
            node=context.name,
            boot=context.boot,
            leads=leads,
            settings=settings,
        )
        registry = Registry(context.env, rows, extents, placement.devices, settings)
        leftovers = Leftovers(
            context.env.clock.monotonic, rows, extents, registry, devices, settings
        )
        self._tending = Supervisor[Tend](context.env, tending, care, lambda: 0.0)
        self._leftovers = Supervisor[Drop](context.env, leftovers, care, lambda: 0.0)

    def start(self, scope: TaskScope) -> None:
        """Run the workers in a scope that is closed before the devices are."""
        scope.start(self._tending.run(), name="volume tending")
        scope.start(self._leftovers.run(), name="volume leftovers")

    def status(self) -> list[dict[str, Any]]:
        """What operators see of each worker: msgpack-able."""
        return [
            msgspec.structs.asdict(worker.status()) for worker in (self._tending, self._leftovers)
        ]


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
