"""The workers of one storage node, put together."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pinfold.care.collector import Collect, Collector
from pinfold.care.copies import Copies
from pinfold.care.names import NamesServer
from pinfold.care.repairs import Repair
from pinfold.care.replicator import Replicator
from pinfold.care.worker import Supervisor
from pinfold.cluster.groups.client import RowClient
from pinfold.cluster.groups.entries import FREES_RANGE, decode_free, decode_row
from pinfold.cluster.groups.service import GroupService
from pinfold.cluster.placement import Placement
from pinfold.device.api import Device
from pinfold.env.api import Env
from pinfold.env.tasks import TaskScope
from pinfold.model.ids import BlobId, DeviceId, GroupId, NodeName
from pinfold.model.settings import CareSettings
from pinfold.rpc.api import Dispatcher, Peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What one node knows of blobs: see `Care.local`."""

    named: frozenset[BlobId]
    """By the applied rows of the groups led here."""
    freed: frozenset[BlobId]
    """Dropped by rows of those groups, and not given back yet."""
    held: dict[DeviceId, frozenset[BlobId]]
    """By each device here; quarantined ones are not."""


class Care:
    """Binds `care.*`, and runs the workers once started.

    `group_ids` are all groups of the cluster, `storage` the nodes that serve devices, and
    `placement` the newest of blobs. `load` tells from 0 to 1 how busy the node is with clients.
    """

    def __init__(
        self,
        env: Env,
        peers: Peers,
        dispatcher: Dispatcher,
        groups: GroupService,
        rows: RowClient,
        devices: Mapping[DeviceId, Device],
        *,
        placement: Callable[[], Placement],
        group_ids: Callable[[], Sequence[GroupId]],
        storage: Callable[[], Collection[NodeName]],
        settings: CareSettings,
        load: Callable[[], float],
    ) -> None:
        self._groups = groups
        self._devices = devices
        Copies(peers, devices, dispatcher)
        NamesServer(env.clock, groups, dispatcher)
        replicator = Replicator(
            env.clock,
            peers,
            dispatcher,
            groups,
            devices,
            placement,
            storage,
            settings,
            self._wake_replicator,
        )
        self._collector = Collector(env, rows, group_ids, devices, settings)
        self.replicator = Supervisor[Repair](env, replicator, settings.worker, load)
        self.collector = Supervisor[Collect](env, self._collector, settings.worker, load)

    def start(self, scope: TaskScope) -> None:
        """Run the workers in a scope that is closed before the devices are."""
        scope.start(self.replicator.run(), name="replicator")
        scope.start(self.collector.run(), name="collector")

    def local(self) -> Local:
        """Everything at once: for inspecting a small cluster at rest, not for use in service."""
        named: set[bytes] = set()
        freed: set[bytes] = set()
        for bound in self._groups.led():
            for _, value in bound.scan(b"\x01", None):
                named.update(ref.id for ref in decode_row(value).blobs)
            for _, value in bound.scan(*FREES_RANGE):
                freed.update(ref.id for ref in decode_free(value))
        return Local(
            named=frozenset(map(BlobId, named)),
            freed=frozenset(map(BlobId, freed)),
            held={
                device: frozenset(blob for blob, _ in opened.blobs.scan(b"", 1 << 20))
                for device, opened in self._devices.items()
            },
        )

    def _wake_replicator(self) -> None:
        self.replicator.wake()

    def status(self) -> list[dict[str, Any]]:
        """What operators see of each worker: msgpack-able."""
        repairs = self.replicator.agenda.jobs()
        replicating = {
            "blobs": len({repair.blob for repair in repairs}),
            "single": len({repair.blob for repair in repairs if repair.copies <= 1}),
        }
        collecting = {
            "collected": self._collector.collected,
            "suspected": self._collector.suspected,
        }
        return [
            {**msgspec.structs.asdict(self.replicator.status()), **replicating},
            {**msgspec.structs.asdict(self.collector.status()), **collecting},
        ]
