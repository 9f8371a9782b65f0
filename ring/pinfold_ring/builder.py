"""What an operator edits: the devices a ring should have next, beside the ring there is now.

A builder is a value like everything here; changes give a new one, and `rebalance` its next ring.
Its file holds the wish in the header and the current ring's own file, unchanged, as the body.
"""

from dataclasses import dataclass, field, replace

from pinfold_ring import codec
from pinfold_ring.assign import check_size
from pinfold_ring.errors import BadRingFile, RingError
from pinfold_ring.lookup import Ring, build
from pinfold_ring.topology import Device, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """A ring in the making: its size, the devices wished for, and the current ring if any."""

    name: str
    part_power: int
    replicas: int
    salt: bytes = b""
    topology: Topology = field(default_factory=Topology)
    ring: Ring | None = None

    def __post_init__(self) -> None:
        check_size(self.part_power, self.replicas)

    def with_topology(self, topology: Topology) -> "Builder":
        """The same with other devices."""
        return replace(self, topology=topology)

    def rebalance(self) -> "Builder":
        """The builder whose ring is the next epoch; raises BadTopology if there cannot be one."""
        ring = build(self.name, self.topology, self.part_power, self.replicas, self.ring, self.salt)
        return replace(self, ring=ring)

    def to_bytes(self) -> bytes:
        """The builder as a file."""
        header = {
            "name": self.name,
            "part_power": self.part_power,
            "replicas": self.replicas,
            "salt": self.salt,
            "devices": [device.to_fields() for device in self.topology],
        }
        body = self.ring.to_bytes() if self.ring else b""
        return codec.encode(codec.BUILDER_MAGIC, header, body)

    @classmethod
    def from_bytes(cls, buffer: codec.Buffer) -> "Builder":
        """Read what `to_bytes` wrote; raises BadRingFile for anything else."""
        header, body, _ = codec.decode(codec.BUILDER_MAGIC, buffer)
        if set(header) != {"name", "part_power", "replicas", "salt", "devices"}:
            raise BadRingFile("header", "the header has missing or unknown fields")
        ring = Ring.from_bytes(body) if len(body) else None
        devices = header.pop("devices")
        try:
            topology = Topology(Device.from_fields(fields) for fields in devices)
            builder = cls(**header, topology=topology, ring=ring)
        except (RingError, TypeError) as error:
            raise BadRingFile("header", f"the file contradicts itself: {error}") from error
        if ring and (ring.name, ring.part_power, ring.replicas, ring.salt) != (
            builder.name,
            builder.part_power,
            builder.replicas,
            builder.salt,
        ):
            raise BadRingFile("header", "the ring inside belongs to another builder")
        return builder
