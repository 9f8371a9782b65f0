"""Registers of unique values, and what makes a history of them linearizable.

The versions that changes return give the order of writes that the log claims; a history is
linearizable if that order is consistent with real time: nothing that ended before something else
began comes after it, for writes and reads alike.
"""

import asyncio

from pinfold.cluster.api import Change, Check, Row
from pinfold.model.errors import Conflict, Unavailable
from pinfold.model.ids import OpId

KEYS = (b"a", b"b", b"c")


class History:
    """What clients saw: per key the highest version that any finished operation has shown."""

    def __init__(self):
        self.floor = dict.fromkeys(KEYS, 0)
        self.written = {}
        self.values = {key: {} for key in KEYS}
        self.writes = self.reads = self.conflicts = 0

    def wrote(self, key, value, version, floor):
        assert version > floor, f"write of {value} to {key} was ordered before what it followed"
        assert self.values[key].setdefault(version, value) == value, "one version, two values"
        self.floor[key] = max(self.floor[key], version)
        self.writes += 1

    def read(self, key, row, floor):
        version = row.version if row is not None else 0
        assert version >= floor, f"stale read of {key}: {version} after {floor}"
        if row is not None:
            value = self.values[key].setdefault(version, row.body)
            assert value == row.body, "a version changed its value"
        self.floor[key] = max(self.floor[key], version)
        self.reads += 1


async def client_work(rows, history, name, rng, working):
    """Read and write registers while `working()`."""
    number = 0
    while working():
        await asyncio.sleep(rng.random() * 0.05)
        key = rng.choice(KEYS)
        floor = history.floor[key]
        try:
            if rng.random() < 0.5:
                history.read(key, await rows.get(b"p", key), floor)
                continue
            number += 1
            value = f"{name}-{number}".encode()
            checks = (Check("version", key, floor),) if floor and rng.random() < 0.5 else ()
            change = Change(OpId(value.ljust(16, b".")), checks, ((key, Row(value)),))
            changed = await rows.change(b"p", change)
            history.wrote(key, value, changed.version, floor)
            if checks:
                later = [v for v in history.values[key] if floor < v < changed.version]
                assert not later, "a conditional write overlooked one before it"
        except Conflict as conflict:
            row = conflict.detail[1]
            assert row is not None
            history.read(key, row, floor)
            assert row.version != floor, "refused although the condition held"
            history.conflicts += 1
        except Unavailable:
            pass
