"""Which copies are missing, and where each can be had from.

The rule of this file: no I/O. Every missing copy is one `Repair`; fewest copies left go first.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pinfold.model.ids import BlobId, DeviceId, GroupId


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A blob as a row names it."""

    blob: BlobId
    length: int
    devices: tuple[DeviceId, ...]
    """Those that the row says have it: some may be handoffs."""
    group: GroupId
    row: bytes
    """Key of the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One copy to be made."""

    blob: BlobId
    length: int
    target: DeviceId
    sources: tuple[DeviceId, ...]
    """Devices that may have a good copy, the likeliest first."""
    copies: int
    """Good copies known to exist now."""
    named_by: tuple[GroupId, bytes] | None
    """Group and key of the row; None when it is not known."""
    quarantined: bool = False
    """The target has it in quarantine, and will be found to have until it is repaired."""

    @property
    def key(self) -> tuple[BlobId, DeviceId]:
        """See `Job`."""
        return self.blob, self.target

    @property
    def rank(self) -> int:
        """See `Job`: a blob that one more loss would destroy goes before all others."""
        return self.copies

    @property
    def size(self) -> int:
        """See `Job`."""
        return self.length


def placed(named: Iterable[tuple[Named, Sequence[DeviceId]]]) -> dict[DeviceId, list[bytes]]:
    """Each primary's blobs: those that it should hold."""
    blobs: dict[DeviceId, list[bytes]] = {}
    for one, primaries in named:
        for device in primaries:
            blobs.setdefault(device, []).append(one.blob)
    return blobs


def missing_copies(
    named: Iterable[tuple[Named, Sequence[DeviceId]]],
    lacking: Mapping[DeviceId, Collection[bytes]],
    unknown: Collection[DeviceId],
) -> list[Repair]:
    """The copies to make, given what devices lack; `unknown` ones did not answer.

    A device that was neither asked nor failed counts as a holder.
    """
    repairs: list[Repair] = []
    for one, primaries in named:
        targets = [device for device in primaries if one.blob in lacking.get(device, ())]
        if not targets:
            continue
        turn = one.blob[-1] % len(primaries)
        order = dict.fromkeys((*primaries[turn:], *primaries[:turn], *one.devices))
        sources = [device for device in order if device not in targets]
        sources.sort(key=lambda device: device in unknown)
        copies = sum(device not in unknown for device in sources)
        repairs += [
            Repair(
                blob=one.blob,
                length=one.length,
                target=target,
                sources=tuple(sources),
                copies=copies,
                named_by=(one.group, one.row),
            )
            for target in targets
        ]
    return repairs
