"""Blobs that lost their last name without a word: who drops a blob says so in the same change.

Else only the collector of orphans finds it, days later, and a run ends with nothing to be seen. Of
a blob that a split moved, several shards' rows tell, and those that saw the first may not have seen
the last: such blobs are not judged.
"""

from collections.abc import Collection, Iterable
from typing import Final

from pinfold.cluster.groups.entries import RESERVED, dropped_key
from pinfold.objects import keys
from pinfold.sim.audit.rows import RowLedger

_SHARD: Final = slice(1, 1 + keys.SHARD_ID_BYTES)


def forgotten(ledgers: Collection[RowLedger], blobs: Iterable[bytes]) -> list[str]:
    """Of blobs that no row names, those that a row named until a change that did not drop them."""
    lost = {blob for blob in blobs if not any(one.has_seen(dropped_key(blob)) for one in ledgers)}
    if not lost:
        return []
    named: dict[bytes, set[bytes]] = {}
    current: set[bytes] = set()
    for ledger in ledgers:
        for key, values in ledger.histories():
            if key[:1] == RESERVED:
                continue
            for blob in lost:
                if any(value is not None and blob in value for value in values):
                    named.setdefault(blob, set()).add(key)
                    last = values[-1]
                    if last is not None and blob in last:
                        current.add(blob)
    return [
        f"blob {blob.hex()} lost its name and was not dropped: {sorted(rows)}"
        for blob, rows in sorted(named.items())
        if blob not in current and len({key[_SHARD] for key in rows}) == 1
    ]
