"""The cluster map: the little that must be agreed before anything else can be found.

A `ClusterMap` is a frozen value; every change makes a new one with the next version. Rpc frames
carry that version as the map epoch. The rule of this file: no I/O, and an invalid map cannot be
built, so whoever holds one need not check it again.
"""

from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec

from pinfold.codec.sealed import seal, unseal
from pinfold.codec.unreadable import UNREADABLE
from pinfold.model.errors import Corrupt, Invalid, NotFound
from pinfold.model.ids import NodeName

METADATA: Final = "metadata"
BLOBS: Final = "blobs"
VOLUMES: Final = "volumes"
"""The policies every cluster has: row groups, object blobs, volume extents."""

_MAGIC: Final = b"PFmp"
_FORMAT: Final = 1

Role = Literal["storage", "s3", "nbd", "admin"]
DeviceState = Literal["active", "draining", "out"]
"""active: serves and takes new data; draining: serves while its data leaves; out: not used."""


class NodeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the cluster."""

    role: Role
    address: str = ""
    """Where peers reach it (`unix:///…`, `tcp://…`); empty until it has started once."""
    boot: int = 0
    """Of the process that registered last."""


class DeviceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A device and where it stands."""

    id: int
    uuid: bytes
    node: str
    path: str
    """On its node; relative paths start at the node's data directory."""
    region: str = "r1"
    zone: str = "z1"
    weight: float = 1.0
    state: DeviceState = "active"


class PolicyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of data is spread."""

    copies: int
    write_quorum: int
    part_power: int
    """The ring of this policy has 2^part_power partitions."""


class RingEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A ring file, whole: immutable and checksummed by the ring library."""

    epoch: int
    table: bytes


class ClusterMap(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the map. The mappings inside are never changed in place."""

    cluster_id: bytes
    version: int = 1
    nodes: dict[str, NodeEntry] = {}
    devices: tuple[DeviceEntry, ...] = ()
    policies: dict[str, PolicyEntry] = {}
    rings: dict[str, RingEntry] = {}

    def __post_init__(self) -> None:
        if len(self.cluster_id) != 16:
            raise Invalid("a cluster id has 16 bytes")
        _refuse_twins("device id", [device.id for device in self.devices])
        _refuse_twins("device uuid", [device.uuid for device in self.devices])
        for device in self.devices:
            if device.node not in self.nodes:
                raise Invalid(f"device {device.id} stands on the unknown node {device.node!r}")
        for name, policy in self.policies.items():
            if not 0 < policy.write_quorum <= policy.copies:
                raise Invalid(f"policy {name}: the write quorum is within the copies")
        for name in self.rings:
            if name not in self.policies:
                raise Invalid(f"ring {name!r} belongs to no policy")

    def node(self, name: NodeName) -> NodeEntry:
        """A node by name; NotFound when the map does not know it."""
        try:
            return self.nodes[name]
        except KeyError:
            raise NotFound(f"no node {name!r} in the cluster map") from None

    def devices_of(self, name: NodeName) -> tuple[DeviceEntry, ...]:
        """The devices that stand on a node, in id order."""
        return tuple(device for device in self.devices if device.node == name)

    def with_node(self, name: NodeName, entry: NodeEntry) -> "ClusterMap":
        """The next map, with a node added or replaced."""
        return self.next(nodes={**self.nodes, name: entry})

    def next(
        self,
        *,
        nodes: dict[str, NodeEntry] | None = None,
        devices: tuple[DeviceEntry, ...] | None = None,
        policies: dict[str, PolicyEntry] | None = None,
        rings: dict[str, RingEntry] | None = None,
    ) -> "ClusterMap":
        """The map with the next version and these parts replaced; Invalid if they do not fit."""
        return ClusterMap(
            cluster_id=self.cluster_id,
            version=self.version + 1,
            nodes=self.nodes if nodes is None else nodes,
            devices=self.devices if devices is None else devices,
            policies=self.policies if policies is None else policies,
            rings=self.rings if rings is None else rings,
        )


Edit = Callable[[ClusterMap], ClusterMap]
"""A pure function from the current map to the next one (or the same object: no change).

It may run more than once, and on another thread.
"""


class MapStore(Protocol):
    """The agreed map, seen from one process."""

    def get(self) -> ClusterMap:
        """The newest copy this process has seen. No I/O, never fails."""
        ...

    async def update(self, edit: Edit) -> ClusterMap:
        """Replace the map by `edit(map)` if nobody else did meanwhile, else try again.

        Returns the map now in force. Unavailable when the store cannot be reached; what `edit`
        raises passes through and nothing changes.
        """
        ...

    def watch(self, callback: Callable[[ClusterMap], None]) -> None:
        """Call back on the loop with every newer map seen (some may be skipped), in order."""
        ...

    async def close(self) -> None:
        """Stop watching. `get` still answers."""
        ...


def encode_map(value: ClusterMap) -> bytes:
    """The map as stored and sent."""
    return seal(_MAGIC, _FORMAT, _ENCODER.encode(value))


def decode_map(record: bytes) -> ClusterMap:
    """Read what `encode_map` wrote; Corrupt for anything else."""
    version, payload = unseal(_MAGIC, record)
    if version != _FORMAT:
        raise Corrupt(f"cluster map of format {version}, this version reads {_FORMAT}")
    try:
        return _DECODER.decode(payload)
    except (*UNREADABLE, Invalid) as error:
        raise Corrupt(f"cluster map does not decode: {error}") from error


def _refuse_twins(what: str, values: list[int] | list[bytes]) -> None:
    if len(set(values)) != len(values):
        raise Invalid(f"a {what} is used twice in the cluster map")


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(ClusterMap)
