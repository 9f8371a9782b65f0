"""After healing everything converges: full redundancy, equal members, nothing left over.

Judges one inspection of a cluster at rest, given as plain data. What it names is still missing; a
scenario looks again until nothing is, or its patience ends.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pinfold.sim.checkers.finding import Finding

CHECKER: Final = "convergence"

NAMED_AT_ONCE: Final = 5
"""Blobs or extents named in one finding; the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What one device holds of a group."""

    last_op: int
    applied_op: int
    digest: bytes
    """Of the applied rows: a digest that the group keeps, or a hash of all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob that a row names."""

    copies: int
    """As many as its policy wants."""
    holders: frozenset[str]
    """Devices that gave back a copy which verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What the row and the devices say of a volume."""

    out: frozenset[str] = frozenset()
    """Devices that the row calls out of sync."""
    dirty: frozenset[str] = frozenset()
    """Devices with extents that no holder has declared stable."""
    extents: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """By extent and member, a checksum of its content (never written: that of zeroes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A cluster at rest."""

    now_ms: int = 0
    grace_ms: int = 0
    """Age from which on a blob that no row names should be gone."""
    groups: Mapping[str, Mapping[str, Member]] = field(default_factory=dict)
    """By group and device; every member, those that cannot be asked are a finding of others."""
    blobs: Mapping[str, Blob] = field(default_factory=dict)
    strays: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By device, the blobs there that no row names, with their stamps (Unix milliseconds)."""
    volumes: Mapping[str, Volume] = field(default_factory=dict)


def check(seen: Inspection) -> list[Finding]:
    """What has not converged."""
    return [
        Finding(checker=CHECKER, subject=subject, explanation=text)
        for subject, text in (
            *_groups(seen.groups),
            *_blobs(seen.blobs),
            *_strays(seen),
            *_volumes(seen.volumes),
        )
    ]


def _groups(groups: Mapping[str, Mapping[str, Member]]) -> Iterator[tuple[str, str]]:
    for group, members in sorted(groups.items()):
        newest = max((max(m.last_op, m.applied_op) for m in members.values()), default=0)
        behind = [
            f"{device} has op {member.last_op}, applied {member.applied_op}"
            for device, member in sorted(members.items())
            if member.last_op < newest or member.applied_op < newest
        ]
        if behind:
            yield f"group {group}", f"of {newest} ops: {'; '.join(behind)}"
        by_op: dict[int, dict[bytes, list[str]]] = {}
        for device, member in sorted(members.items()):
            alike = by_op.setdefault(member.applied_op, {})
            alike.setdefault(member.digest, []).append(device)
        for op, digests in by_op.items():
            if len(digests) > 1:
                sides = " / ".join(
                    f"{', '.join(devices)}: {digest.hex()[:16]}"
                    for digest, devices in digests.items()
                )
                yield f"group {group}", f"equal op {op}, different rows: {sides}"


def _blobs(blobs: Mapping[str, Blob]) -> Iterator[tuple[str, str]]:
    by_count: dict[int, list[str]] = {}
    for name, blob in sorted(blobs.items()):
        if len(blob.holders) < blob.copies:
            text = f"{name} on {', '.join(sorted(blob.holders)) or 'no device'}"
            by_count.setdefault(len(blob.holders), []).append(text)
    for count, texts in sorted(by_count.items()):
        yield f"blobs with {count} copies", _some(texts)


def _strays(seen: Inspection) -> Iterator[tuple[str, str]]:
    for device, blobs in sorted(seen.strays.items()):
        old = [
            f"{blob} of {(seen.now_ms - stamp) / 1000:.1f} s ago"
            for blob, stamp in sorted(blobs.items())
            if seen.now_ms - stamp > seen.grace_ms
        ]
        if old:
            yield f"device {device}", f"holds blobs that no row names: {_some(old)}"


def _volumes(volumes: Mapping[str, Volume]) -> Iterator[tuple[str, str]]:
    for name, volume in sorted(volumes.items()):
        for what, devices in (("out of sync", volume.out), ("dirty", volume.dirty)):
            if devices:
                yield f"volume {name}", f"{what}: {', '.join(sorted(devices))}"
        unequal = [
            f"extent {index} ("
            + ", ".join(f"{device}: {check:016x}" for device, check in sorted(members.items()))
            + ")"
            for index, members in sorted(volume.extents.items())
            if len({check for device, check in members.items() if device not in volume.out}) > 1
        ]
        if unequal:
            yield f"volume {name}", f"members in sync differ: {_some(unequal)}"


def _some(texts: list[str]) -> str:
    more = len(texts) - NAMED_AT_ONCE
    return "; ".join(texts[:NAMED_AT_ONCE]) + (f" and {more} more" if more > 0 else "")
