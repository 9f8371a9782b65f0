"""What every process that uses the cluster's data is made of: rows, blobs and extents as clients.

Storage nodes have one too: their collectors give back blobs on other nodes.
"""

from collections.abc import Collection
from dataclasses import dataclass

from pinfold.cluster.blobs.client import BlobClient
from pinfold.cluster.extents import ExtentClient
from pinfold.cluster.groups.client import RowClient
from pinfold.cluster.map import BLOBS, METADATA, VOLUMES
from pinfold.model.errors import Unavailable
from pinfold.model.ids import DeviceId, GroupId, NodeName, VolumeId
from pinfold.node.context import NodeContext
from pinfold.node.metrics import PressureCollector
from pinfold.node.placements import Placements


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The clients of one process; all follow the map."""

    placements: Placements
    membership: "RowMembership"
    rows: RowClient
    blobs: BlobClient
    extents: ExtentClient
    extent_placement: "VolumePlacement"

    @classmethod
    def of(cls, context: NodeContext) -> "Gateway":
        """The clients of a process, with their metrics; nothing is sent yet. Once a process."""
        placements = Placements(context.map)
        membership = RowMembership(placements)
        placement = VolumePlacement(placements)
        blobs = BlobClient(
            context.env,
            context.peers,
            placements.following(BLOBS),
            context.settings.blobs,
            context.scope,
        )
        context.metrics.register(PressureCollector(context.dispatcher.late, lambda: blobs.given_up))
        return cls(
            placements=placements,
            membership=membership,
            rows=RowClient(context.env, context.peers, membership, membership.group_of),
            blobs=blobs,
            extents=ExtentClient(context.peers, placement.node_of),
            extent_placement=placement,
        )


class RowMembership:
    """`cluster.groups` seen through the metadata ring: a partition is a group."""

    def __init__(self, placements: Placements) -> None:
        self._placements = placements

    def members(self, group: GroupId) -> tuple[DeviceId, ...]:
        """See `groups.membership.Membership`."""
        return self._placements.of(METADATA).members(group)

    def node_of(self, device: DeviceId) -> NodeName:
        """See `groups.membership.Membership`."""
        return self._placements.of(METADATA).node_of(device)

    def founding(self) -> bool:
        """See `groups.membership.Membership`."""
        return self._placements.of(METADATA).epoch == 1

    def group_of(self, place: bytes) -> GroupId:
        """The group that a placement key hashes to."""
        return GroupId(self._placements.of(METADATA).partition(place))

    def groups_on(self, device: DeviceId, count: int) -> list[GroupId]:
        """The groups among the first `count` that the ring puts on a device."""
        return [g for g in map(GroupId, range(count)) if device in self.members(g)]


class VolumePlacement:
    """`volumes.placement.ExtentPlacement` on the volumes ring, as it is at each call."""

    def __init__(self, placements: Placements) -> None:
        self._placements = placements
        self._sets: tuple[object, tuple[tuple[DeviceId, ...], ...]] = (None, ())

    def members(self, volume: VolumeId, extent: int) -> tuple[DeviceId, ...]:
        """See `ExtentPlacement`. All snapshots of a lineage share the key, so its devices."""
        return self._placements.of(VOLUMES).primaries(volume + extent.to_bytes(4, "big"))

    def devices(self) -> tuple[DeviceId, ...]:
        """See `ExtentPlacement`."""
        return tuple(sorted({device for members in self.member_sets() for device in members}))

    def member_sets(self) -> Collection[tuple[DeviceId, ...]]:
        """See `ExtentPlacement`. Computed once per ring."""
        placement = self._placements.of(VOLUMES)
        if self._sets[0] is not placement:
            sets = dict.fromkeys(map(placement.members, range(placement.partitions)))
            self._sets = (placement, tuple(sets))
        return self._sets[1]

    def node_of(self, device: DeviceId) -> NodeName | None:
        """The node that serves a device, None when the map does not know it."""
        try:
            return self._placements.of(VOLUMES).node_of(device)
        except Unavailable:
            return None
