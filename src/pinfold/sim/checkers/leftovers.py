"""Rows that nobody will ever ask for again: parts of uploads that are no more, names of no shard.

Judges all rows of a cluster at rest, when no change is under way.
"""

from collections.abc import Mapping
from typing import Final

from pinfold.cluster.api import Row
from pinfold.objects import keys
from pinfold.objects.records import BucketRecord, ShardRecord, decode
from pinfold.sim.checkers.finding import Finding

CHECKER: Final = "leftovers"

_NAMED_AT_ONCE: Final = 5
"""Rows named in one finding."""


def check(rows: Mapping[bytes, Row]) -> list[Finding]:
    """Findings about shards with rows that should be gone."""
    by_shard: dict[bytes, list[bytes]] = {}
    for key in rows:
        if key[:1] != b"o" or keys.section_of(key) != keys.PARTS:
            continue
        shard, name = key[1 : 1 + keys.SHARD_ID_BYTES], keys.object_name(key)
        upload = key[-2 - keys.UPLOAD_ID_BYTES : -2]
        if keys.upload_key(shard, name, upload) not in rows:
            by_shard.setdefault(shard, []).append(key)
    found = [
        (shard, f"{len(left)} parts of uploads that have ended: {_some(left)}")
        for shard, left in sorted(by_shard.items())
    ]
    found += [
        (shard, "it has names, and neither a map nor a split has it") for shard in _lost(rows)
    ]
    return [
        Finding(checker=CHECKER, subject=f"shard {shard.hex()}", explanation=text)
        for shard, text in found
    ]


def _lost(rows: Mapping[bytes, Row]) -> list[bytes]:
    """Shards with names that are in no bucket's map, and not about to be."""
    known: set[bytes] = set()
    named: set[bytes] = set()
    for key, row in rows.items():
        if key[:1] == b"o":
            named.add(key[1 : 1 + keys.SHARD_ID_BYTES])
        elif key[:1] == b"m":
            known.add(decode(ShardRecord, row.body).id)
        elif key[:1] == b"b":
            split = decode(BucketRecord, row.body).split
            known.add(split.child if split is not None else b"")
    return sorted(named - known)


def _some(parts: list[bytes]) -> str:
    return ", ".join(
        f"{keys.object_name(key)!r} {key[-2 - keys.UPLOAD_ID_BYTES :].hex()}"
        for key in parts[:_NAMED_AT_ONCE]
    )
