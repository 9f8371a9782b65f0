"""The identifiers of the system, as distinct types so that they cannot be mixed up."""

from typing import NewType

NodeName = NewType("NodeName", str)
"""A process of the cluster: a storage node or a front end (`n1`, `s3-1`)."""

DeviceId = NewType("DeviceId", int)
"""A device's number in the cluster map and in ring tables (0 to 65,534)."""

DeviceUuid = NewType("DeviceUuid", bytes)
"""16 random bytes given to a device when it is formatted; never reused."""

Boot = NewType("Boot", int)
"""How often a device (or process) has been opened: on the wire a device is (uuid, boot)."""

GroupId = NewType("GroupId", int)
"""A partition of the metadata ring, hence a replicated row log."""

BlobId = NewType("BlobId", bytes)
"""16 bytes: 48 bits of creation time (milliseconds, big-endian), then 80 random bits."""

VolumeId = NewType("VolumeId", bytes)
"""16 bytes naming a volume's lineage root; part of every extent key on devices."""

ExtentIndex = NewType("ExtentIndex", int)
"""Position of a 4 MiB extent in its volume, counted from 0."""

Token = NewType("Token", int)
"""A volume lease's fencing token: grows by one with every new holder."""

OpId = NewType("OpId", bytes)
"""16 random bytes chosen by the client of a row change; a retry repeats it."""
