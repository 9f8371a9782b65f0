"""The devices of a cluster and where they stand: the ring's only input besides its size.

Invariant: a `Topology` that exists is valid and sorted by device id, so two topologies with the
same devices are equal and give the same ring.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pinfold_ring.errors import BadTopology

DEVICE_ID_MAX = 65_534
"""Highest device id: tables hold uint16 and 65,535 stays free as "no device"."""

LABEL_BYTES_MAX = 255
"""Longest region, zone or node name, UTF-8 bytes: what a host name or path part may have."""

META_BYTES_MAX = 4096
"""Longest free text kept with a device, UTF-8 bytes: the ring is loaded by every process."""

UUID_BYTES = 16
"""Bytes of a device's uuid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One disk or directory: its number in the table, its place, and its weight.

    `weight` is relative (bytes, terabytes, anything); 0 keeps the device known while every replica
    leaves it. `uuid` is 16 bytes, or empty when not known yet. `meta` is free text.
    """

    id: int
    region: str = "r1"
    zone: str = "z1"
    node: str = "n1"
    weight: float = 1.0
    uuid: bytes = b""
    meta: str = ""

    def __post_init__(self) -> None:
        if type(self.id) is not int or not 0 <= self.id <= DEVICE_ID_MAX:
            raise BadTopology(f"device id {self.id!r} is not a number from 0 to {DEVICE_ID_MAX}")
        for what in ("region", "zone", "node"):
            self._check_text(what, getattr(self, what), LABEL_BYTES_MAX)
            if not getattr(self, what):
                raise BadTopology(f"device {self.id}: the {what} has no name")
        self._check_text("meta", self.meta, META_BYTES_MAX)
        if type(self.weight) not in (int, float) or not math.isfinite(self.weight):
            raise BadTopology(f"device {self.id}: weight {self.weight!r} is not a finite number")
        if self.weight < 0:
            raise BadTopology(f"device {self.id}: weight {self.weight!r} is negative")
        if not isinstance(self.uuid, bytes) or len(self.uuid) not in (0, UUID_BYTES):
            raise BadTopology(f"device {self.id}: the uuid must have {UUID_BYTES} bytes or none")

    @property
    def place(self) -> tuple[str, str, str]:
        """Region, zone and node; a zone or node name means something only inside its parent."""
        return (self.region, self.zone, self.node)

    def to_fields(self) -> dict[str, Any]:
        """The device as a plain mapping, for msgpack; `from_fields` is its inverse."""
        return {
            "id": self.id,
            "region": self.region,
            "zone": self.zone,
            "node": self.node,
            "weight": float(self.weight),
            "uuid": self.uuid,
            "meta": self.meta,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Device":
        """Read what `to_fields` wrote; unknown or missing fields raise BadTopology."""
        if not isinstance(fields, Mapping) or set(fields) != _FIELDS:
            raise BadTopology("a device record has missing or unknown fields")
        return cls(**fields)

    def _check_text(self, what: str, text: object, bytes_max: int) -> None:
        if not isinstance(text, str):
            raise BadTopology(f"device {self.id}: {what} {text!r} is not text")
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise BadTopology(f"device {self.id}: {what} is not valid Unicode") from None
        if size > bytes_max:
            raise BadTopology(f"device {self.id}: {what} is longer than {bytes_max} bytes")


_FIELDS = frozenset({"id", "region", "zone", "node", "weight", "uuid", "meta"})


@dataclass(frozen=True, slots=True, init=False)
class Topology:
    """A frozen set of devices, sorted by id; changes give a new topology."""

    devices: tuple[Device, ...]

    def __init__(self, devices: Iterable[Device] = ()) -> None:
        ordered = tuple(sorted(devices, key=lambda device: device.id))
        uuids: dict[bytes, int] = {}
        for before, after in pairwise(ordered):
            if before.id == after.id:
                raise BadTopology(f"device id {after.id} is used twice")
        for device in ordered:
            if device.uuid and device.uuid in uuids:
                other = uuids[device.uuid]
                raise BadTopology(f"devices {other} and {device.id} have the same uuid")
            uuids[device.uuid] = device.id
        object.__setattr__(self, "devices", ordered)

    def __len__(self) -> int:
        return len(self.devices)

    def __iter__(self) -> Iterator[Device]:
        return iter(self.devices)

    def get(self, device_id: int) -> Device | None:
        """The device with this id, or None."""
        return next((device for device in self.devices if device.id == device_id), None)

    def device(self, device_id: int) -> Device:
        """The device with this id; raises BadTopology when there is none."""
        found = self.get(device_id)
        if found is None:
            raise BadTopology(f"there is no device {device_id}")
        return found

    def with_device(self, device: Device) -> "Topology":
        """One device more; its id must be free."""
        return Topology((*self.devices, device))

    def with_weight(self, device_id: int, weight: float) -> "Topology":
        """The same devices, one of them with another weight."""
        changed = replace(self.device(device_id), weight=weight)
        return Topology((*self.without(device_id).devices, changed))

    def without(self, device_id: int) -> "Topology":
        """One device less; it must be there."""
        self.device(device_id)
        return Topology(device for device in self.devices if device.id != device_id)

    def check_carries(self, replicas: int) -> None:
        """Refuse a ring that would need two replicas of a partition on one device."""
        usable = sum(device.weight > 0 for device in self.devices)
        if usable < replicas:
            raise BadTopology(
                f"{replicas} replicas need at least {replicas} devices with a weight above 0, "
                f"there are {usable}"
            )
