"""A node's settings: one typed tree, read once, defaults and bounds on the fields.

The file is DATA/nodes/NAME.toml; what it does not name has its default, and what it names must be
known and in range. Parts of the tree are handed to the layers that own them.
"""

from typing import Annotated, Final, Literal

import msgspec

from pinfold.codec.unreadable import UNREADABLE
from pinfold.model.errors import Invalid, NotFound
from pinfold.model.ids import NodeName
from pinfold.model.limits import BLOCK_BYTES, CHANGE_BYTES, EXTENT_BYTES, SEGMENT_BYTES
from pinfold.model.settings import (
    BlobSettings,
    CareSettings,
    DeviceSettings,
    NbdSettings,
    S3Settings,
    VolumeSettings,
)
from pinfold.node.layout import Layout

DESCRIPTORS_BESIDE: Final = 1024
"""Files that are open besides clients or packs: peers, strangers, admin's clients, segments."""

Level = Literal["debug", "info", "warning", "error"]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every process has, whatever its role."""

    log_level: Level = "info"
    """The least severe line that is written."""
    switch_interval_s: Annotated[float, msgspec.Meta(ge=1e-6, le=0.1)] = 0.0005
    """How long a busy thread keeps the interpreter from a waiting one. CPython's 5 ms would be
    added to every flush that a writer lane reports while the loop is busy."""
    drain_timeout_s: Seconds = 8.0
    """A stop that takes longer is cut short; nothing acknowledged is lost by that."""


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole tree."""

    process: ProcessSettings = ProcessSettings()
    device: DeviceSettings = DeviceSettings()
    blobs: BlobSettings = BlobSettings()
    s3: S3Settings = S3Settings()
    nbd: NbdSettings = NbdSettings()
    volumes: VolumeSettings = VolumeSettings()
    care: CareSettings = CareSettings()

    def descriptors(self) -> int:
        """Open files that a process may come to need, whichever role it has."""
        most = max(self.s3.connections_max, self.nbd.connections_max, self.device.open_packs)
        return most + DESCRIPTORS_BESIDE


ORPHAN_GRACE_MIN_S: Final = 48 * 3600
"""The day in which a blob may be named, and twice the 12 h by which a clock may be wrong."""

TEMPLATE: Final = """\
# Settings of the Pinfold process "{name}", read when it starts. Written once, never overwritten.
# Everything has a default; docs/operating.md lists what can be set. For example:
#
# [process]
# log_level = "debug"
"""


def read_settings(layout: Layout, node: NodeName) -> NodeSettings:
    """The node's settings; Invalid names the file, the field and what is wrong with it."""
    path = layout.settings(node)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist: the node {node!r} was never set up here") from None
    try:
        settings = msgspec.toml.decode(content, type=NodeSettings)
    except (*UNREADABLE, ValueError) as error:
        raise Invalid(f"{path}: {error}") from error
    for holds, rule in _rules(settings):
        if not holds:
            raise Invalid(f"{path}: {rule}")
    return settings


def _rules(settings: NodeSettings) -> list[tuple[bool, str]]:
    """What must hold between settings, each with how to say that it does not."""
    objects, volumes = settings.s3.objects, settings.volumes
    return [
        (
            objects.segment_bytes <= min(SEGMENT_BYTES, objects.write_memory_bytes),
            f"s3.objects.segment_bytes is at most {SEGMENT_BYTES} and write_memory_bytes",
        ),
        (
            2 * objects.read_chunk_bytes <= objects.read_memory_bytes,
            "s3.objects.read_memory_bytes holds at least two of read_chunk_bytes",
        ),
        (
            settings.device.segment_bytes >= 4 * CHANGE_BYTES,
            f"device.segment_bytes is at least {4 * CHANGE_BYTES}: two of the largest record",
        ),
        (
            volumes.min_in_sync <= volumes.copies,
            "volumes.min_in_sync is at most volumes.copies",
        ),
        (
            settings.care.orphan_grace_s >= ORPHAN_GRACE_MIN_S,
            f"care.orphan_grace_s is at least {ORPHAN_GRACE_MIN_S}: with a clock that is wrong by "
            "12 h a blob could be collected before it is named",
        ),
        (
            volumes.piece_bytes % BLOCK_BYTES == 0
            and EXTENT_BYTES % volumes.piece_bytes == 0
            and volumes.piece_bytes < settings.device.record_bytes,
            f"volumes.piece_bytes is a multiple of {BLOCK_BYTES}, divides {EXTENT_BYTES} and is "
            "less than half of device.segment_bytes",
        ),
        (
            volumes.beat_s < volumes.trust_s < volumes.takeover_s,
            "volumes.beat_s is below trust_s, and trust_s below takeover_s: a volume would have "
            "two holders",
        ),
    ]
